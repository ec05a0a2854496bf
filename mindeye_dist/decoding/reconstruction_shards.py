"""Shards of reconstructions: pictures with their candidates, scores and what they were made with.

A sample is `KEY.png` (chosen), `KEY.lowlevel.png` where there was one, `KEY.candidate00.png` ...,
`KEY.scores.npy` and `KEY.json`. A shard is never changed: its name ends with a digest of all that
its pictures depend on, so what is there and intact is right. `reconstructions.json` is written
last and says which shards belong together.
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
class MadeWith:
    """What the pictures of a set depend on, but for the voxels.

    Attributes:
        repeats: the mean of each picture's distinct repeats, or the first alone.
        checkpoint: digest of the high-level checkpoint's manifest.
        generator: name of the generator; generator_digest its digest.
        encoder: name of the encoder of candidates; encoder_digest its digest.
        lowlevel: digest of the low-level checkpoint's manifest, "" without one.
        codec: digest of the codec of its latents, "" without one.
        device: kind of device, whose random numbers are its own.
        candidates: pictures a brain.
        strength: share of the blurry picture that was drawn anew.
        seed: that all seeds come from.
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
class Record:
    """A finished set of reconstructions."""

    format: str
    made_with: MadeWith
    shards: tuple[Shard, ...]


def made_with(
    reconstructor: Reconstructor, split: str, repeats: Literal["average", "first"], device: str
) -> MadeWith:
    """Return what a reconstructor's pictures of a split depend on, drawn on a kind of device."""
    predictor, lowlevel = reconstructor.predictor, reconstructor.lowlevel
    config = reconstructor.config
    return MadeWith(
        subject=predictor.config.data.subject,
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


def known(store: Store, samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return samples with their voxels' checksums, which an index by tar headers does not tell.

    Raises:
        DataError: the voxels cannot be read.
    """
    names = (VOXELS, DISTINCT)
    if all(sample.member(name).checksum for sample in samples for name in names):
        return samples
    bodies = iter(read_members(store, [(s, name) for s in samples for name in names]))
    return [with_checksums(sample, {name: next(bodies) for name in names}) for sample in samples]


def shard_path(made_with: Any, number: int, samples: Sequence[Sample]) -> str:
    """Return the path of a set's shard, which tells settings, keys and voxels (by checksum).

    The name is no place for the subject's.

    Args:
        made_with: a dataclass of all that the set depends on, its split among it.
        number: of the shard.
        samples: whose brains it is of.
    """
    sha256 = hashlib.sha256(json.dumps(dataclasses.asdict(made_with)).encode())
    for sample in samples:
        sources = [sample.member(name).checksum for name in (VOXELS, DISTINCT)]
        sha256.update(f"{sample.key} {' '.join(sources)}\n".encode())
    return f"{made_with.split}/{made_with.split}_{number}-{sha256.hexdigest()[:12]}.tar"


def write_reconstructions(
    store: Store, path: str, made: Reconstructions, made_with: MadeWith
) -> Shard:
    """Write reconstructions as one shard with its index, and return its entry."""
    rows = [(key, _members(made, brain, made_with)) for brain, key in enumerate(made.keys)]
    return write_shard(store, path, pack(rows))


def write_record(store: Store, made_with: MadeWith, shards: Sequence[Shard]) -> Record:
    """Write which shards belong together; done last, it makes them a set."""
    record = Record(format=FORMAT, made_with=made_with, shards=tuple(shards))
    store.write(RECORD, json.dumps(dataclasses.asdict(record), indent=1).encode())
    return record


def read_record(store: Store) -> Record:
    """Return what a store of reconstructions holds.

    Raises:
        DataError: there is no finished set.
    """
    where = store.locate(RECORD)
    try:
        values = json.loads(store.read(RECORD))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{where}: expected reconstructions of format {FORMAT!r}")
    try:
        return from_dict(Record, values, partial=True)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def finished(store: Store, expected: MadeWith, data: Store, samples: Sequence[Sample]) -> Record:
    """Return the record of a finished set that was made as expected, from these samples' voxels.

    Args:
        store: of the reconstructions.
        expected: what they are to depend on.
        data: the shards whose brains they are of.
        samples: of the split, of which a set may hold the first ones alone.

    Raises:
        DataError: there is no finished set, or it depends on something else.
    """
    record = read_record(store)
    found, wanted = (dataclasses.asdict(one) for one in (record.made_with, expected))
    if other := [f"{k} {found[k]!r}, not {wanted[k]!r}" for k in wanted if found[k] != wanted[k]]:
        raise DataError(f"{store.locate(RECORD)}: was made with {'; '.join(other)}")
    first = 0
    for number, shard in enumerate(record.shards):
        own = samples[first : first + shard.num_samples]
        if shard.path != shard_path(expected, number, known(data, own)):
            raise DataError(f"{store.locate(shard.path)}: is not of the voxels in {data.url}")
        first += shard.num_samples
    return record


def reconstructions_of(
    store: Store, record: Record, keys: Collection[str]
) -> Iterator[Reconstructions]:
    """Yield a set's reconstructions of these pictures, shard by shard.

    Raises:
        DataError: some are not in the set, or a shard is missing or damaged.
    """
    missing = set(keys)
    for shard in record.shards:
        if some := [sample for sample in read_index(store, shard) if sample.key in missing]:
            missing -= {sample.key for sample in some}
            yield _read(store, some)
    if missing:
        raise DataError(
            f"{store.locate(RECORD)}: has no {', '.join(sorted(missing)[:3])}: lacks "
            f"{len(missing)} of {len(keys)} pictures"
        )


def read_reconstructions(store: Store) -> Reconstructions:
    """Return all reconstructions of a finished set; `read_shard` gives them shard by shard.

    Raises:
        DataError: there is no finished set, or a shard is missing or damaged.
    """
    parts = [read_shard(store, shard) for shard in read_record(store).shards]
    lowlevel = [part.lowlevel for part in parts if part.lowlevel is not None]
    return Reconstructions(
        keys=tuple(key for part in parts for key in part.keys),
        candidates=np.concatenate([part.candidates for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        lowlevel=np.concatenate(lowlevel) if lowlevel else None,
    )


def read_shard(store: Store, shard: Shard) -> Reconstructions:
    """Return the reconstructions of one shard.

    Raises:
        DataError: it is missing or damaged, or names another choice than its scores do.
    """
    return _read(store, read_index(store, shard))


def _read(store: Store, samples: Sequence[Sample]) -> Reconstructions:
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


def _members(made: Reconstructions, brain: int, made_with: MadeWith) -> dict[str, bytes]:
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
    """Return a brain's candidates, their scores and the low-level picture, if there is one."""
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
