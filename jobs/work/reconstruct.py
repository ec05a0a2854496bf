"""Reconstruct the pictures that brains of a split saw, on Ray Data.

In: voxels of a split. Out: shards of pictures with all candidates and scores; the chosen candidate
is the best by the projector's output. Pictures do not depend on batches or workers. Started again,
a killed job makes only the missing shards.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jobs.on_ray.parallel_map import connect, map_items
from jobs.opening.checkpoints import chosen_checkpoint, data_store
from jobs.opening.reconstruction import CheckpointPaths, find_checkpoint_paths, open_reconstructor
from jobs.opening.splits import (
    SplitPart,
    open_voxel_split,
    out_folder,
    part_voxels,
    split_parts,
    split_workers,
)
from jobs.options.reconstruct import Reconstruct
from mindeye_dist.data.manifest import Shard
from mindeye_dist.data.shards import intact_shard
from mindeye_dist.decoding.reconstruction_shards import (
    Provenance,
    ReconstructionRecord,
    reconstruction_provenance,
    write_reconstructions,
    write_record,
)
from mindeye_dist.decoding.reconstructor import Reconstructor
from mindeye_dist.errors import InputError
from mindeye_dist.storage.store import Store


class ShardReconstructor:
    """Task of a parallel map: make a missing shard of reconstructions. It holds the models."""

    def __init__(
        self,
        options: Reconstruct,
        found: CheckpointPaths,
        made_with: Provenance,
        parts: Sequence[SplitPart],
    ) -> None:
        self._options, self._made_with, self._parts = options, made_with, parts
        self._out = Store(options.out)
        if not Path(found.checkpoint).exists():  # a fetched copy, on another node's disk
            found = find_checkpoint_paths(on_cpu(options))
        self._reconstructor = open_reconstructor(options, found)
        own = reconstruction_settings(options, self._reconstructor)
        if own != made_with:
            raise InputError(
                f"this worker would make reconstructions with {own}, expected {made_with}, as "
                "where the job was started"
            )
        predictor = self._reconstructor.predictor
        self._dataset = open_voxel_split(options, data_store(options, predictor), predictor)

    def __call__(self, number: int) -> dict[str, Any]:
        """Return the shard's entry and the number of pictures drawn for it."""
        part = self._parts[number]
        if there := intact_shard(self._out, part.path):
            return {"shard": asdict(there), "made": 0}
        keys = [sample.key for sample in self._dataset.samples[part.first : part.stop]]
        voxels = part_voxels(self._dataset, part, self._options.repeats)
        made = self._reconstructor(voxels, keys)
        shard = write_reconstructions(self._out, part.path, made, self._made_with)
        return {"shard": asdict(shard), "made": len(keys)}


def reconstruct(options: Reconstruct) -> ReconstructionRecord:
    """Write the reconstructions of a split; return the record with their shards.

    Raises:
        CheckpointError: the run has no good checkpoint.
        DataError: checkpoints and data do not fit together, or shards cannot be read or written.
        InputError: weights are missing or do not fit.
    """
    here = on_cpu(options)
    found = find_checkpoint_paths(here)
    reconstructor = open_reconstructor(here, found)
    described = reconstruction_settings(options, reconstructor)
    predictor = reconstructor.predictor
    dataset = open_voxel_split(here, data_store(here, predictor), predictor)
    parts = split_parts(options, dataset, described)
    count = sum(part.stop - part.first for part in parts)
    print(
        f"{count} pictures, {described.candidates} candidates each, by {described.generator} "
        f"{'over' if described.lowlevel else 'without'} low-level pictures",
        file=sys.stderr,
    )
    del reconstructor, predictor  # the workers have their own
    answers = map_items(
        split_workers(options, options.device),
        ShardReconstructor,
        (options, found, described, parts),
        [part.stop - part.first for part in parts],
        "drawing pictures",
    )
    print(f"drew {sum(a['made'] for a in answers)} of {count} pictures", file=sys.stderr)
    return write_record(Store(options.out), described, [Shard(**a["shard"]) for a in answers])


def on_cpu(options: Reconstruct) -> Reconstruct:
    """Return the options for a node without GPU, such as a cluster's head."""
    return replace(options, device="cpu", draw=replace(options.draw, device="cpu"))


def reconstruction_settings(options: Reconstruct, reconstructor: Reconstructor) -> Provenance:
    """Return the provenance of pictures by these models and options."""
    return reconstruction_provenance(reconstructor, options.split, options.repeats, options.device)


def run(options: Reconstruct) -> None:
    """Reconstruct a split on the workers that the options ask for."""
    out = out_folder(options.out, "reconstructions", *chosen_checkpoint(options))
    options = replace(options, out=out)
    connect(split_workers(options, options.device))
    reconstruct(options)
    print(options.out)
