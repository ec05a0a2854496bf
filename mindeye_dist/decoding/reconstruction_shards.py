"""Shards of reconstructions: chosen pictures with their candidates, scores and provenance.

A sample is `KEY.png` (the chosen candidate), `KEY.lowlevel.png` with a low-level pipeline,
`KEY.candidate00.png` ..., `KEY.scores.npy` and `KEY.json`. A shard is never changed: its name ends
with a digest of everything that its pictures depend on, so an intact shard need not be made again.
`reconstructions.json` lists the shards of a set and is written last.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mindeye_dist.data.manifest import Shard
from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import (
    DISTINCT,
    VOXELS,
    Sample,
    decode_npy,
    read_index,
    with_checksums,
    write_shard,
)
from mindeye_dist.data.writer import pack
from mindeye_dist.decoding.reconstructor import Reconstructions, Reconstructor
from mindeye_dist.errors import DataError
from mindeye_dist.pictures import decode, encode_png
from mindeye_dist.runs.checkpoints import MANIFEST, file_digest
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import from_dict

RECORD = "reconstructions.json"
FORMAT = "mindeye-dist-reconstructions/1"
CHOSEN, LOWLEVEL, SCORES, ABOUT = "png", "lowlevel.png", "scores.npy", "json"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Models and settings that the pictures of a set depend on, besides the voxels.

    Attributes:
        subject: name of the subject.
        split: name of the split.
        repeats: mean of each picture's distinct repeats, or the first repeat alone.
        checkpoint: digest of the high-level checkpoint's manifest.
        generator: name of the generator.
        generator_digest: digest of its weights.
        encoder: name of the encoder of the candidates.
        encoder_digest: digest of its weights.
        lowlevel: digest of the low-level checkpoint's manifest, "" without one.
        codec: digest of the codec of its latents, "" without one.
        device: kind of device, each of which has its own random numbers.
        candidates: number of candidates per brain.
        strength: img2img strength, the fraction of the blurry picture that is replaced.
        seed: seed of the run.
        shared_noise: equal noise in the generator for every picture.
        averaged_samples: number of samples of the prior whose mean all candidates share, or 0.
    """

    subject: str
    split: str
    repeats: Literal["average", "first"]
    checkpoint: str
    generator: str
    generator_digest: str
    encoder: str
    encoder_digest: str
    lowlevel: str
    codec: str
    device: str
    candidates: int
    strength: float
    seed: int
    shared_noise: bool
    averaged_samples: int


@dataclass(frozen=True, kw_only=True)
class ReconstructionRecord:
    """Content of `reconstructions.json`: the provenance and the shards of a complete set."""

    format: str
    made_with: Provenance
    shards: tuple[Shard, ...]


def reconstruction_provenance(
    reconstructor: Reconstructor, split: str, repeats: Literal["average", "first"], device: str
) -> Provenance:
    """Return the provenance of a reconstructor's pictures of a split, made on a kind of device."""
    predictor, lowlevel = reconstructor.predictor, reconstructor.lowlevel
    config = reconstructor.config
    return Provenance(
        subject=predictor.subject,
        split=split,
        repeats=repeats,
        checkpoint=file_digest(predictor.path / MANIFEST),
        generator=reconstructor.generator.name,
        generator_digest=reconstructor.generator.digest,
        encoder=reconstructor.encoder.name,
        encoder_digest=reconstructor.encoder.digest,
        lowlevel=file_digest(lowlevel.predictor.path / MANIFEST) if lowlevel else "",
        codec=lowlevel.codec.digest if lowlevel else "",
        device=device,
        candidates=config.candidates,
        strength=config.strength,
        seed=config.seed,
        shared_noise=config.shared_noise,
        averaged_samples=config.averaged_samples,
    )


def with_voxel_checksums(store: Store, samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return samples with checksums of their voxels, read where the shard's index has none.

    Raises:
        DataError: the voxels cannot be read.
    """
    names = (VOXELS, DISTINCT)
    if all(sample.member(name).checksum for sample in samples for name in names):
        return samples
    bodies = iter(read_members(store, [(s, name) for s in samples for name in names]))
    return [with_checksums(sample, {name: next(bodies) for name in names}) for sample in samples]


def output_shard_path(made_with: Any, number: int, samples: Sequence[Sample]) -> str:
    """Return the path of an output shard; it ends with a digest of provenance, keys and voxels.

    The path never contains the subject's name.

    Args:
        made_with: dataclass with the provenance of the set, including its split.
        number: number of the shard in the set.
        samples: samples whose voxels the shard is made from, with checksums.
    """
    sha256 = hashlib.sha256(json.dumps(dataclasses.asdict(made_with)).encode())
    for sample in samples:
        sources = [sample.member(name).checksum for name in (VOXELS, DISTINCT)]
        sha256.update(f"{sample.key} {' '.join(sources)}\n".encode())
    return f"{made_with.split}/{made_with.split}_{number}-{sha256.hexdigest()[:12]}.tar"


def write_reconstructions(
    store: Store, path: str, made: Reconstructions, made_with: Provenance
) -> Shard:
    """Write reconstructions as one shard with its index; return its entry for the record."""
    rows = [(key, _members(made, brain, made_with)) for brain, key in enumerate(made.keys)]
    return write_shard(store, path, pack(rows))


def write_record(
    store: Store, made_with: Provenance, shards: Sequence[Shard]
) -> ReconstructionRecord:
    """Write `reconstructions.json`, which completes the set."""
    record = ReconstructionRecord(format=FORMAT, made_with=made_with, shards=tuple(shards))
    store.write(RECORD, json.dumps(dataclasses.asdict(record), indent=1).encode())
    return record


def read_record(store: Store) -> ReconstructionRecord:
    """Read `reconstructions.json`.

    Raises:
        DataError: the set is incomplete, or the file is of another format.
    """
    where = store.locate(RECORD)
    try:
        values = json.loads(store.read(RECORD))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{where}: expected reconstructions of format {FORMAT!r}")
    try:
        return from_dict(ReconstructionRecord, values, partial=True)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def read_matching_record(
    store: Store, expected: Provenance, data: Store, samples: Sequence[Sample]
) -> ReconstructionRecord:
    """Read the record of a set that has the expected provenance and was made from these voxels.

    Args:
        store: folder of the reconstructions.
        expected: provenance that the set must have.
        data: shards of the voxels.
        samples: samples of the split; the set may cover only the first of them.

    Raises:
        DataError: the set is incomplete, or its provenance or its voxels differ.
    """
    record = read_record(store)
    got, wanted = dataclasses.asdict(record.made_with), dataclasses.asdict(expected)
    if other := [f"{k} {got[k]!r}, not {wanted[k]!r}" for k in wanted if got[k] != wanted[k]]:
        raise DataError(f"{store.locate(RECORD)}: was made with {'; '.join(other)}")
    first = 0
    for number, shard in enumerate(record.shards):
        own = with_voxel_checksums(data, samples[first : first + shard.num_samples])
        if shard.path != output_shard_path(expected, number, own):
            raise DataError(f"{store.locate(shard.path)}: is not of the voxels in {data.url}")
        first += shard.num_samples
    return record


def read_reconstructions(
    store: Store, record: ReconstructionRecord, keys: Collection[str]
) -> Iterator[Reconstructions]:
    """Yield a set's reconstructions of the pictures with these keys, shard by shard.

    Raises:
        DataError: pictures are not in the set, a shard is missing or damaged, or a chosen
            candidate is not the one with the highest score.
    """
    missing = set(keys)
    for shard in record.shards:
        if samples := [s for s in read_index(store, shard) if s.key in missing]:
            missing -= {sample.key for sample in samples}
            yield _read_samples(store, samples)
    if missing:
        raise DataError(
            f"{store.locate(RECORD)}: has no {', '.join(sorted(missing)[:3])}: lacks "
            f"{len(missing)} of {len(keys)} pictures"
        )


def _read_samples(store: Store, samples: Sequence[Sample]) -> Reconstructions:
    rows = [_read_sample(store, sample) for sample in samples]
    lowlevel = [picture for _, _, picture in rows if picture is not None]
    return Reconstructions(
        keys=tuple(sample.key for sample in samples),
        candidates=np.stack([candidates for candidates, _, _ in rows]),
        scores=np.stack([scores for _, scores, _ in rows]),
        lowlevel=np.stack(lowlevel) if lowlevel else None,
    )


def _candidate(number: int) -> str:
    return f"candidate{number:02d}.png"


def _members(made: Reconstructions, brain: int, made_with: Provenance) -> dict[str, bytes]:
    chosen = int(made.chosen[brain])
    about = {
        "key": made.keys[brain],
        "chosen": chosen,
        "made_with": dataclasses.asdict(made_with),
    }
    candidates = [encode_png(picture) for picture in made.candidates[brain]]
    members = {CHOSEN: candidates[chosen]}
    if made.lowlevel is not None:
        members[LOWLEVEL] = encode_png(made.lowlevel[brain])
    members |= {_candidate(number): png for number, png in enumerate(candidates)}
    return members | {SCORES: npy.encode(made.scores[brain]), ABOUT: json.dumps(about).encode()}


def _read_sample(store: Store, sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return one brain's candidates, their scores and its low-level picture (or None)."""
    where = f"{store.locate(sample.shard)}: sample {sample.key}"
    bodies = dict(
        zip(
            sample.members,
            read_members(store, [(sample, name) for name in sample.members]),
            strict=True,
        )
    )
    scores = decode_npy(bodies[SCORES], f"{where}: {SCORES}")
    chosen = json.loads(bodies[ABOUT])["chosen"]
    if chosen != scores.argmax():
        raise DataError(f"{where}: candidate {chosen} is chosen, {scores.argmax()} scores best")
    candidates = [
        decode(bodies[_candidate(number)], f"{where}: {_candidate(number)}")
        for number in range(len(scores))
    ]
    lowlevel = decode(bodies[LOWLEVEL], f"{where}: {LOWLEVEL}") if LOWLEVEL in bodies else None
    return np.stack(candidates), scores, lowlevel
