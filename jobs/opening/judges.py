"""Open the networks that score reconstructions, and the known facts of the test pictures.

In: `NetworkOptions`, a store of shards. Out: `Judges`, with a reason for each missing network.
"""

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
"""Metrics computed by each network of `NetworkOptions`."""


def open_judges(options: NetworkOptions, store: Store, device: str) -> Judges:
    """Return the networks with given weights, EfficientNet-Lite0, and the facts of the pictures.

    Raises:
        DataError: the facts cannot be read.
        InputError: a file of weights is missing or of another network. A failed download is a gap,
            not an error.
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
    facts = read_picture_facts(store)
    return Judges(
        networks=networks,
        gaps=gaps,
        encoder=encoder,
        factors={key: row["factors"] for key, row in facts.items() if "factors" in row},
        captions={key: row["caption"] for key, row in facts.items() if "caption" in row},
        antialias=options.antialias,
    )


def read_picture_facts(store: Store) -> dict[str, dict[str, Any]]:
    """Return factors and captions of simulated subjects' pictures by sample key, if stored."""
    if not store.exists(ABOUT_PICTURES):
        return {}
    rows = (json.loads(line) for line in store.read(ABOUT_PICTURES).decode().splitlines())
    return {row["key"]: row for row in rows}
