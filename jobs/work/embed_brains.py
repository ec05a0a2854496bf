"""Embed the voxels of a split with a checkpoint, on Ray Data.

In: voxels of a split. Out: shards of KEY.embedding.npy, float32 of unit norm (tokens, dim), by the
same `Predictor` as in evaluation and service, then embeddings.json. (`jobs/embed.py` embeds
pictures.) Started again, a killed job makes only the missing shards.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jobs.on_ray.parallel_map import connect, map_items
from jobs.opening.checkpoints import chosen_checkpoint, data_store
from jobs.opening.splits import (
    SplitPart,
    open_voxel_split,
    out_folder,
    part_voxels,
    split_parts,
    split_workers,
)
from jobs.options.embed_brains import EmbedBrains
from mindeye_dist.data.manifest import Shard
from mindeye_dist.data.shards import intact_shard, write_shard
from mindeye_dist.data.writer import pack
from mindeye_dist.decoding.predictor import Predictor, check_pipeline
from mindeye_dist.errors import InputError
from mindeye_dist.runs.checkpoints import MANIFEST, file_digest
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store

RECORD = "embeddings.json"
MEMBER = "embedding.npy"


@dataclass(frozen=True)
class EmbeddedWith:
    """Provenance of a set of embeddings, without the voxels.

    Attributes:
        checkpoint: digest of the checkpoint's manifest.
        encoder: digest of the encoder of the clip_tokens that the embeddings compare with.
    """

    split: str
    repeats: Literal["average", "first"]
    checkpoint: str
    encoder: str
    device: str


class BrainEmbedder:
    """Task of a parallel map: make a missing shard of embeddings. It holds the model."""

    def __init__(
        self,
        options: EmbedBrains,
        path: Path,
        embedded_with: EmbeddedWith,
        parts: Sequence[SplitPart],
    ) -> None:
        if not path.exists():  # a fetched copy, on another node's disk
            path, _ = chosen_checkpoint(options)
        self._predictor = Predictor(path, options.device)
        if (own := embedding_settings(options, self._predictor)) != embedded_with:
            raise InputError(
                f"this worker would embed with {own}, expected {embedded_with}, as on the node "
                "that started the job"
            )
        self._options, self._parts, self._out = options, parts, Store(options.out)
        store = data_store(options, self._predictor)
        self._dataset = open_voxel_split(options, store, self._predictor)

    def __call__(self, number: int) -> dict[str, Any]:
        """Return the shard's entry and the number of brains embedded for it."""
        part = self._parts[number]
        if there := intact_shard(self._out, part.path):
            return {"shard": asdict(there), "made": 0}
        voxels = part_voxels(self._dataset, part, self._options.repeats)
        rows = self._predictor.embed(voxels)
        samples = self._dataset.samples[part.first : part.stop]
        members = [
            (sample.key, {MEMBER: npy.encode(row)})
            for sample, row in zip(samples, rows, strict=True)
        ]
        shard = write_shard(self._out, part.path, pack(members))
        return {"shard": asdict(shard), "made": len(members)}


def embed_brains(options: EmbedBrains) -> dict[str, Any]:
    """Embed the brains of a split, and write and return the record of the set.

    Raises:
        CheckpointError: the run has no good checkpoint.
        DataError: the checkpoint is low-level, or shards cannot be read or written.
    """
    path, _ = chosen_checkpoint(options)
    predictor = Predictor(path)
    check_pipeline(predictor, "highlevel")
    described = embedding_settings(options, predictor)
    dataset = open_voxel_split(options, data_store(options, predictor), predictor)
    parts = split_parts(options, dataset, described)
    answers = map_items(
        split_workers(options, options.device),
        BrainEmbedder,
        (options, path, described, parts),
        [part.stop - part.first for part in parts],
        "embedding brains",
    )
    print(f"embedded {sum(a['made'] for a in answers)} brains", file=sys.stderr)
    shards = [asdict(Shard(**answer["shard"])) for answer in answers]
    record = {"made_with": asdict(described), "shards": shards}
    Store(options.out).write(RECORD, json.dumps(record, indent=1).encode())
    return record


def embedding_settings(options: EmbedBrains, predictor: Predictor) -> EmbeddedWith:
    """Return the provenance of embeddings by this checkpoint and these options."""
    return EmbeddedWith(
        split=options.split,
        repeats=options.repeats,
        checkpoint=file_digest(predictor.path / MANIFEST),
        encoder=predictor.shapes.targets["clip_tokens"].digest,
        device=options.device,
    )


def run(options: EmbedBrains) -> None:
    """Embed the brains of a split on the workers that the options ask for."""
    out = out_folder(options.out, "embeddings", *chosen_checkpoint(options))
    options = replace(options, out=out)
    connect(split_workers(options, options.device))
    embed_brains(options)
    print(options.out)
