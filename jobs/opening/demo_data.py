"""Simulate the demo's data if they are missing, and check that a run's data exist."""

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
    """Simulate the demo's subject if `url` has no data. Processes of torchrun do not."""
    if "RANK" in os.environ:
        return
    store = Store(url)
    if not store.exists(MANIFEST):
        print(f"no data at {url}: simulating a subject first", file=sys.stderr)
        write_subjects(store, SimulatedDataset(), watch=watched)
    elif store.exists(ENCODER_FILE) and not same_tensors(store.read(ENCODER_FILE)):
        print(
            f"{url}: its clip_tokens are not those of this version's demo, which the shipped "
            "generator draws; delete the folder to simulate it anew",
            file=sys.stderr,
        )


def same_tensors(encoder: bytes) -> bool:
    """Return whether a file's tensors equal those of the demo's encoder."""
    own, known = load(encoder), load(SCENES_ENCODER.read_bytes())
    return own.keys() == known.keys() and all(torch.equal(own[k], known[k]) for k in own)


def check_subject_data(config: ExperimentConfig) -> None:
    """Check that the shards have the run's subject, and its targets unless these are computed.

    Raises:
        DataError: subject or targets are missing.
    """
    manifest = read_manifest(Store(config.data.url))
    manifest.subject(config.data.subject)
    if not config.data.computed.encoder:
        data_shapes(manifest, config)
