"""Embedding of brains: voxels of a split -> the projector's embeddings, as shards of `.npy`."""

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
    """What the embeddings of a set depend on, but for the voxels.

    Attributes:
        checkpoint: digest of its manifest.
        encoder: digest of the encoder with whose clip_tokens they can be compared.
    """

    split: str
    repeats: Literal["average", "first"]
    checkpoint: str
    encoder: str
    device: str


class BrainEmbedder:
    """Station that makes a shard of embeddings, unless it is there; it holds the model."""

    def __init__(
        self,
        options: EmbedBrains,
        path: Path,
        embedded_with: EmbeddedWith,
        parts: Sequence[SplitPart],
    ) -> None:
        if not path.exists():  # a copy, which is not on this node
            path, _ = chosen_checkpoint(options)
        self._predictor = Predictor(path, options.device)
        if (own := embedding_settings(options, self._predictor)) != embedded_with:
            raise InputError(
                f"this worker would embed with {own}, expected {embedded_with}, as where the job "
                "was started"
            )
        self._options, self._parts, self._out = options, parts, Store(options.out)
        store = data_store(options, self._predictor)
        self._dataset = open_voxel_split(options, store, self._predictor)

    def __call__(self, number: int) -> dict[str, Any]:
        """Return the shard's entry and the number of brains that were embedded for it."""
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
    """Embed the brains of a split, and return the record of the set, which is written last.

    Raises:
        CheckpointError: the run has no good checkpoint.
        DataError: it is of the low-level pipeline, or shards cannot be read or written.
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
    """Embed."""
    out = out_folder(options.out, "embeddings", *chosen_checkpoint(options))
    options = replace(options, out=out)
    connect(split_workers(options, options.device))
    embed_brains(options)
    print(options.out)
