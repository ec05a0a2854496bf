"""Reconstruct what was seen: `python jobs/reconstruct.py --run-dir runs/demo`, on Ray Data.

Voxels of a split -> candidates -> the best by the projector's output, as shards of pictures with
their candidates and scores in a folder or on S3. The pictures do not depend on batches or workers.
What a killed run has finished is kept: started again, it makes the missing shards alone.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from jobs.command import clear_errors, place
from jobs.drawing import DrawOptions, Found, find, open_reconstructor
from jobs.runs import chosen_checkpoint, data_store
from jobs.stations import Workers, connect, run
from mindeye_dist.config import ReconstructionConfig
from mindeye_dist.data.embedding import intact_shard
from mindeye_dist.data.loader import Dataset
from mindeye_dist.data.shards import Shard, read_manifest
from mindeye_dist.data.store import DataError, Store
from mindeye_dist.inference import Predictor
from mindeye_dist.reconstruct import Reconstructor
from mindeye_dist.reconstruction_shards import (
    MadeWith,
    Record,
    known,
    made_with,
    shard_path,
    write_reconstructions,
    write_record,
)
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class Reconstruct(DrawOptions):
    """Draw the pictures that brains of a split saw, and write them with all their candidates."""

    out: str = ""
    """Folder or s3:// prefix; by default RUN_DIR/reconstructions, or for a checkpoint of no run
    CHECKPOINT-reconstructions beside it."""
    split: Literal["train", "val", "test"] = "test"
    limit: int = 0
    """Pictures of the split, the first ones; 0 takes all."""
    repeats: Literal["average", "first"] = "average"
    """The mean of each picture's repeats, or a single trial."""
    pictures_per_shard: int = 8
    """What a killed run loses of a worker's work, at most."""
    workers: int = 1
    """Ray workers, each with a copy of the models."""
    without_ray: bool = False
    """Compute in this very process."""
    reconstruction: Annotated[ReconstructionConfig, tyro.conf.arg(name="")] = field(
        default_factory=ReconstructionConfig
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.limit >= 0, "limit", self.limit, "0 or more")
        for name in ("pictures_per_shard", "workers"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


@dataclass(frozen=True)
class Part:
    """Brains of the split whose pictures share a shard, by their place in it."""

    path: str
    first: int
    stop: int


class Reconstructing:
    """Station that makes a shard of reconstructions, unless it is there; it holds the models."""

    def __init__(
        self, options: Reconstruct, found: Found, made_with: MadeWith, parts: Sequence[Part]
    ) -> None:
        self._options, self._made_with, self._parts = options, made_with, parts
        self._out = Store(options.out)
        self._reconstructor = open_reconstructor(options, found)
        own = describe(options, self._reconstructor)
        if own != made_with:
            raise ValueError(
                f"this worker would make reconstructions with {own}, expected {made_with}, as "
                "where the job was started"
            )
        self._dataset = open_split(options, self._reconstructor.predictor)

    def __call__(self, number: int) -> dict[str, Any]:
        """Return the shard's entry and the number of pictures that were drawn for it."""
        part = self._parts[number]
        if there := intact_shard(self._out, part.path):
            return {"shard": asdict(there), "made": 0}
        indices = range(part.first, part.stop)
        made = self._reconstructor(
            self._voxels(indices), [self._dataset.samples[i].key for i in indices]
        )
        shard = write_reconstructions(self._out, part.path, made, self._made_with)
        return {"shard": asdict(shard), "made": len(indices)}

    def _voxels(self, indices: Sequence[int]) -> np.ndarray:
        rows = [row.astype(np.float32) for row in self._dataset.voxels(indices)]
        average = self._options.repeats == "average"
        return np.stack([row.mean(axis=0) if average else row[0] for row in rows])


def reconstruct(options: Reconstruct) -> Record:
    """Make and write the reconstructions of a split, and return which shards they are in.

    Raises:
        CheckpointError: the run has no good checkpoint.
        DataError: what was given does not fit together, or shards cannot be read or written.
        ValueError: weights are not there or do not fit.
    """
    # On the CPU: a cluster's head may have no GPU.
    here = replace(options, device="cpu", draw=replace(options.draw, device="cpu"))
    found = find(here)
    reconstructor = open_reconstructor(here, found)
    described = describe(options, reconstructor)
    dataset = open_split(here, reconstructor.predictor)
    size = options.pictures_per_shard
    count = min(options.limit or len(dataset), len(dataset))
    bounds = [(first, min(first + size, count)) for first in range(0, count, size)]
    parts = [
        Part(
            shard_path(described, number, known(dataset.store, dataset.samples[first:stop])),
            first,
            stop,
        )
        for number, (first, stop) in enumerate(bounds)
    ]
    print(
        f"{count} pictures, {described.candidates} candidates each, by {described.generator} "
        f"{'over' if described.lowlevel else 'without'} low-level pictures",
        file=sys.stderr,
    )
    del reconstructor  # the workers have their own
    answers = run(
        workers(options),
        Reconstructing,
        (options, found, described, parts),
        [part.stop - part.first for part in parts],
        "drawing pictures",
    )
    print(f"drew {sum(a['made'] for a in answers)} of {count} pictures", file=sys.stderr)
    return write_record(Store(options.out), described, [Shard(**a["shard"]) for a in answers])


def open_split(options: Reconstruct, predictor: Predictor) -> Dataset:
    """Return the split whose brains are reconstructed, without targets.

    Raises:
        DataError: there is no such split, or it is of other voxels than the checkpoint.
    """
    store, config = data_store(options, predictor), predictor.config.data
    dataset = Dataset(store, read_manifest(store), config, options.split)
    got, expected = dataset.voxel_shape[1], predictor.shapes.num_voxels
    if got != expected:
        raise DataError(
            f"{config.subject}: has {got} voxels, {predictor.path} was trained on {expected}"
        )
    return dataset


def describe(options: Reconstruct, reconstructor: Reconstructor) -> MadeWith:
    """Return what pictures by these models and options depend on."""
    return made_with(reconstructor, options.split, options.repeats, options.device)


def workers(options: Reconstruct) -> Workers:
    """Return who computes."""
    return Workers(
        count=options.workers, gpu=options.device == "cuda", without_ray=options.without_ray
    )


def out_folder(options: Reconstruct) -> str:
    """Return where the pictures go.

    Raises:
        CheckpointError: the run has no good checkpoint.
        ValueError: that would be inside the checkpoint, which strangers make invalid.
    """
    path, run_dir = chosen_checkpoint(options)
    if not options.out:
        return str(
            run_dir / "reconstructions"
            if run_dir
            else path.with_name(f"{path.name}-reconstructions")
        )
    out = place(options.out)
    if "://" not in out and Path(out).resolve().is_relative_to(path.resolve()):
        raise ValueError(f"--out: got {out}, expected a folder outside the checkpoint")
    return out


def main(arguments: list[str]) -> None:
    """Parse the command line and reconstruct."""
    with clear_errors():
        options = tyro.cli(Reconstruct, args=arguments, description=__doc__)
        options = replace(options, out=out_folder(options))
        connect(workers(options))
        reconstruct(options)
        print(options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
