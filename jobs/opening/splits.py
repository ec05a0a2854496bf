"""Open a split's voxels in parts, one for each shard of a batch job's output.

The name of a shard is a digest of all that its contents depend on. An intact shard of that name
therefore needs no work, and a killed job continues with the missing shards.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from jobs.command import absolute_path
from jobs.options.splits import SplitOptions
from jobs.options.workers import Workers
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.decoding.reconstruction_shards import output_shard_path, with_voxel_checksums
from mindeye_dist.errors import DataError, InputError
from mindeye_dist.storage.store import Store


@dataclass(frozen=True)
class SplitPart:
    """Samples first:stop of a split, which share the shard `path` of the output."""

    path: str
    first: int
    stop: int


def open_voxel_split(options: SplitOptions, store: Store, predictor: Predictor) -> Dataset:
    """Return the dataset of the chosen split, without targets.

    Raises:
        DataError: the split is missing, or its number of voxels is not the checkpoint's.
    """
    config = predictor.config.data
    dataset = Dataset(store, read_manifest(store), config, options.split)
    got, expected = dataset.voxel_shape[1], predictor.num_voxels
    if got != expected:
        raise DataError(
            f"{predictor.subject}: has {got} voxels, {predictor.path} was trained on {expected}"
        )
    return dataset


def split_parts(options: SplitOptions, dataset: Dataset, made_with: Any) -> list[SplitPart]:
    """Return the parts of the chosen samples; `made_with` is the output's provenance."""
    size = options.pictures_per_shard
    count = min(options.limit or len(dataset), len(dataset))
    bounds = [(first, min(first + size, count)) for first in range(0, count, size)]
    parts = []
    for number, (first, stop) in enumerate(bounds):
        samples = with_voxel_checksums(dataset.store, dataset.samples[first:stop])
        parts.append(SplitPart(output_shard_path(made_with, number, samples), first, stop))
    return parts


def part_voxels(
    dataset: Dataset, part: SplitPart, repeats: Literal["average", "first"]
) -> Float[np.ndarray, "brains voxels"]:
    """Return the voxels of a part's samples: the mean of the repeats, or the first."""
    rows = [row.astype(np.float32) for row in dataset.voxels(range(part.first, part.stop))]
    return np.stack([row.mean(axis=0) if repeats == "average" else row[0] for row in rows])


def split_workers(options: SplitOptions, device: str) -> Workers:
    """Return the number and kind of workers."""
    return Workers(count=options.workers, gpu=device == "cuda", without_ray=options.without_ray)


def out_folder(out: str, name: str, checkpoint: Path, run_dir: Path | None) -> str:
    """Return the output folder: `out`, or by default `name` in the run or beside the checkpoint.

    Raises:
        InputError: `out` is inside the checkpoint, which other files would make invalid.
    """
    if not out:
        return str(run_dir / name if run_dir else checkpoint.with_name(f"{checkpoint.name}-{name}"))
    out = absolute_path(out)
    if "://" not in out and Path(out).resolve().is_relative_to(checkpoint.resolve()):
        raise InputError(f"--out: got {out}, expected a folder outside the checkpoint")
    return out
