"""Opening of the objects that the options of `jobs/options/judges.py` name."""

import json
from pathlib import Path
from typing import Any

from jobs.options.judges import NetworkOptions
from mindeye_dist.data.shards import ABOUT_PICTURES
from mindeye_dist.evaluation.pictures import Judges
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.metric_networks import HUB, FeatureNetwork, open_lite0, open_network
from mindeye_dist.storage.store import Store

NETWORK_METRICS = {
    "alexnet": ("alexnet2", "alexnet5"),
    "inception": ("inception",),
    "clip": ("clip",),
    "efficientnet_b1": ("efficientnet_b1",),
    "swav": ("swav",),
}


def open_judges(options: NetworkOptions, store: Store, device: str) -> Judges:
    """Return the networks whose weights are given, EfficientNet-Lite0, and what is known.

    Raises:
        DataError: what is known cannot be read.
        InputError: weights are not there or are another network's; what the hub does not give is a
            gap.
    """
    networks: list[FeatureNetwork] = []
    gaps: dict[str, str] = {}
    encoder = None
    for name, keys in NETWORK_METRICS.items():
        weights = getattr(options, name)
        try:
            networks += [
                open_network(key, weights, device, antialias=options.antialias)
                for key in keys
                if weights
            ]
        except ValueError as error:
            if weights != HUB:
                raise
            gaps |= dict.fromkeys(keys, str(error))
    try:
        lite0 = options.lite0 or str(efficientnet_lite0_weights())
        networks += open_lite0(lite0, device)
        encoder = EfficientNetLite0(Path(lite0), device=device)
    except ImportError as error:
        gaps |= dict.fromkeys(("lite0_two_way", "lite0_distance"), str(error))
    known = read_picture_facts(store)
    return Judges(
        networks=networks,
        gaps=gaps,
        encoder=encoder,
        factors={key: row["factors"] for key, row in known.items() if "factors" in row},
        captions={key: row["caption"] for key, row in known.items() if "caption" in row},
        antialias=options.antialias,
    )


def read_picture_facts(store: Store) -> dict[str, dict[str, Any]]:
    """Return what is known of simulated subjects' pictures, by sample key; nothing of others."""
    if not store.exists(ABOUT_PICTURES):
        return {}
    rows = (json.loads(line) for line in store.read(ABOUT_PICTURES).decode().splitlines())
    return {row["key"]: row for row in rows}
