"""The demo's data: simulated where they are missing; and whether a run's data are there at all."""

import os
import sys

import torch
from safetensors.torch import load

from jobs.command import watched
from jobs.opening.encoders import data_shapes
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.data.manifest import MANIFEST, read_manifest
from mindeye_dist.frozen.projection import ENCODER_FILE, SCENES_ENCODER
from mindeye_dist.simulation.config import SimulatedDataset
from mindeye_dist.simulation.subject_shards import write_subjects
from mindeye_dist.storage.store import Store


def simulate_demo(url: str) -> None:
    """Simulate the demo's subject where there is none; torchrun's processes leave it out."""
    if "RANK" in os.environ:
        return
    store = Store(url)
    if not store.exists(MANIFEST):
        print(f"no data at {url}: simulating a subject first", file=sys.stderr)
        write_subjects(store, SimulatedDataset(), watch=watched)
    elif store.exists(ENCODER_FILE) and not same_tensors(store.read(ENCODER_FILE)):
        print(
            f"{url}: has other tokens than this version's demo, so that the generator that comes "
            "with it will not draw them; delete the folder to simulate it anew",
            file=sys.stderr,
        )


def same_tensors(encoder: bytes) -> bool:
    """Return whether a file's tensors are those of the demo's encoder; its bytes may differ."""
    own, known = load(encoder), load(SCENES_ENCODER.read_bytes())
    return own.keys() == known.keys() and all(torch.equal(own[k], known[k]) for k in own)


def check_subject_data(config: ExperimentConfig) -> None:
    """See that the data are there: subject, and targets unless they are computed.

    Raises:
        DataError: they are not.
    """
    manifest = read_manifest(Store(config.data.url))
    manifest.subject(config.data.subject)
    if not config.data.computed.encoder:
        data_shapes(manifest, config)
