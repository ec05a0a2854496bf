"""Files of a pool: pictures, their tokens, an index of these, and what says that they fit.

A pool is a folder of its own, whose pool.json is written last: where it is missing, building was
cut short, and building again starts over. Pictures lie in shards, square; tokens in one array that
is read from disk where it is asked for, so each picture's have a checksum.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from jaxtyping import Float

from mindeye_dist.data.manifest import Shard
from mindeye_dist.data.target_encoder import BATCH, TargetEncoder, Views, encode_views
from mindeye_dist.data.writer import write_shards
from mindeye_dist.decoding.pools.faiss_index import fit_components, write_search_index
from mindeye_dist.errors import DataError
from mindeye_dist.pictures import decode, square_jpeg, thumbnail
from mindeye_dist.shapes import TargetShape
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import from_dict

FORMAT = "mindeye-dist-pool/2"
ABOUT, INDEX, TOKENS = "pool.json", "index.faiss", "tokens.npy"
COMPONENTS, CHECKSUMS, THUMBNAILS = "components.npy", "checksums.npy", "thumbnails.npy"
FILES = (INDEX, COMPONENTS, TOKENS, CHECKSUMS, THUMBNAILS)
FLAT_UP_TO = 10_000
"""Pictures up to which the first stage compares a brain with all of them."""
MAX_SIDE = 256
SOURCE, JPEG = "source.txt", "jpg"


@dataclass(frozen=True, kw_only=True)
class PoolFile:
    """A file of a pool; sha256 is "" for the tokens, whose every row has a checksum."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PoolAbout:
    """What a pool holds.

    Attributes:
        encoder: whose tokens they are, and digest that of its weights and preprocessing.
        shape: of one picture's tokens, (tokens, dim).
        num_components: of the tokens, by which the index compares pictures.
        index: "flat", or "ivf" and the number of its lists.
        files: by name.
        shards: of the pictures.
    """

    format: str
    count: int
    encoder: str
    digest: str
    shape: tuple[int, ...]
    num_components: int
    index: str
    files: dict[str, PoolFile]
    shards: tuple[Shard, ...]


def build_pool(
    folder: Path,
    pictures: Iterable[tuple[str, bytes]],
    encoder: TargetEncoder,
    max_side: int = MAX_SIDE,
    flat_up_to: int = FLAT_UP_TO,
) -> PoolAbout:
    """Encode pictures into a pool, from the start, and return what it holds.

    Args:
        folder: made if it is not there; what pool is in it is none from the first write on.
        pictures: name and bytes of JPEG or PNG files; taken a batch at a time.
        encoder: of clip_tokens.
        max_side: width of the stored pictures, the central squares; smaller ones keep theirs
            (pixels).
        flat_up_to: pictures up to which the first stage is exact.

    Raises:
        DataError: there are no pictures, one cannot be read, its tokens are not finite in float16
            or all zero, or the folder cannot be written.
    """
    try:
        (folder / ABOUT).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        shards = _write_pictures(folder, pictures, encoder, max_side)
        tokens = np.load(folder / TOKENS, mmap_mode="r", allow_pickle=False)
        components = fit_components(tokens)
        np.save(folder / COMPONENTS, components, allow_pickle=False)
        about = PoolAbout(
            format=FORMAT,
            count=len(tokens),
            encoder=encoder.name,
            digest=encoder.digest,
            shape=encoder.shape,
            num_components=len(components),
            index=write_search_index(folder / INDEX, tokens, components, flat_up_to),
            files={name: _describe(folder / name) for name in FILES},
            shards=shards,
        )
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error}") from error
    text = json.dumps(dataclasses.asdict(about), indent=1)
    Store(str(folder)).write(ABOUT, text.encode())
    return about


def open_about(folder: Path, targets: TargetShape) -> PoolAbout:
    """Return what a pool holds, once its files are seen to be whole and by the right encoder.

    Args:
        folder: of the pool.
        targets: what the tokens are to be compared with.

    Raises:
        DataError: there is no finished pool, it is by another encoder, or a file is missing or
            damaged.
    """
    about = _read_about(folder)
    _check_targets(folder, about, targets)
    for name, file in about.files.items():
        _check_file(folder / name, file)
    for shard in about.shards:
        if not (folder / shard.path).resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{folder / ABOUT}: got the path {shard.path!r}, expected one inside")
        _check_file(folder / shard.path, PoolFile(num_bytes=shard.num_bytes, sha256=""))
    held = sum(shard.num_samples for shard in about.shards)
    if held != about.count:
        raise DataError(f"{folder}: its shards hold {held} pictures, expected {about.count}")
    return about


def _write_pictures(
    folder: Path, pictures: Iterable[tuple[str, bytes]], encoder: TargetEncoder, max_side: int
) -> tuple[Shard, ...]:
    with open(folder / TOKENS, "wb") as file:
        rows = _Rows(file, encoder, max_side)
        shards = write_shards(Store(str(folder)), "pictures/pictures", rows.samples(pictures))
        if not shards:
            raise DataError(f"{folder}: got no pictures for the pool")
        rows.write_header()
    np.save(folder / CHECKSUMS, np.array(rows.checksums, np.uint64), allow_pickle=False)
    np.save(folder / THUMBNAILS, np.array(rows.thumbnails), allow_pickle=False)
    return shards


class _Rows:
    """Tokens as they are written, with checksums, and thumbnails of their pictures."""

    def __init__(self, file: BinaryIO, encoder: TargetEncoder, max_side: int) -> None:
        self.checksums: list[int] = []
        self.thumbnails: list[np.ndarray] = []
        self._file, self._encoder, self._max_side = file, encoder, max_side
        self.write_header()

    def write_header(self) -> None:
        """Write the array's header for the rows so far; numpy keeps room for their number."""
        self._file.seek(0)
        shape = (len(self.checksums), *self._encoder.shape)
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def samples(
        self, pictures: Iterable[tuple[str, bytes]]
    ) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield each picture as a sample for the shards, its tokens being written."""
        remaining = iter(pictures)
        while chunk := list(islice(remaining, BATCH)):
            names = [name for name, _ in chunk]
            jpegs = [_stored(data, self._max_side, name) for name, data in chunk]
            requests = [(i, 0) for i in range(len(chunk))]
            tokens = encode_views(self._encoder, Views(), jpegs, names, requests)
            for name, jpeg, rows in zip(names, jpegs, tokens, strict=True):
                if not np.any(rows):
                    raise DataError(f"{name}: its tokens by {self._encoder.name} are all zero")
                key = f"picture{len(self.checksums):09d}"
                rows = np.ascontiguousarray(rows, dtype="<f2")
                self._file.write(rows.tobytes())
                self.checksums.append(tokens_checksum(rows))
                self.thumbnails.append(thumbnail(decode(jpeg, name)))
                yield key, {JPEG: jpeg, SOURCE: name.encode()}


def _stored(data: bytes, max_side: int, name: str) -> bytes:
    return square_jpeg(data, min(max_side, *decode(data, name).shape[:2]), name)


def tokens_checksum(rows: Float[np.ndarray, "..."]) -> int:
    """Return the xxh3_64 checksum of one picture's tokens."""
    return xxhash.xxh3_64_intdigest(rows.tobytes())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(path: Path) -> PoolFile:
    return PoolFile(
        num_bytes=path.stat().st_size, sha256="" if path.name == TOKENS else _sha256(path)
    )


def _read_about(folder: Path) -> PoolAbout:
    where = folder / ABOUT
    if not where.exists():
        raise DataError(
            f"{folder}: has no {ABOUT}: it is no pool, or its building was cut short; build it "
            "again"
        )
    try:
        values: Any = json.loads(where.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{where}: expected a pool of format {FORMAT!r}")
    try:
        about = from_dict(PoolAbout, values, partial=True)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if set(about.files) != set(FILES) or len(about.shape) != 2:
        raise DataError(
            f"{where}: got files {sorted(about.files)} and tokens {about.shape}, expected "
            f"{list(FILES)} and (tokens, dim)"
        )
    return about


def _check_targets(folder: Path, about: PoolAbout, targets: TargetShape) -> None:
    given, wanted = (about.digest, about.shape), (targets.digest, targets.shape)
    if given != wanted:
        raise DataError(
            f"{folder}: its tokens are by {about.encoder} {about.digest[:12]}, shape "
            f"{about.shape}, the embeddings are compared with those by {targets.encoder} "
            f"{targets.digest[:12]}, shape {targets.shape}; build a pool with that encoder"
        )


def _check_file(path: Path, file: PoolFile) -> None:
    if not path.exists():
        raise DataError(f"{path}: is missing; build the pool again")
    num_bytes = path.stat().st_size
    if num_bytes != file.num_bytes:
        raise DataError(f"{path}: has {num_bytes} bytes, expected {file.num_bytes}")
    if file.sha256 and _sha256(path) != file.sha256:
        raise DataError(f"{path}: is damaged: its digest is not the one of {ABOUT}")


def mapped(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a file's array, read from disk where it is used.

    Raises:
        DataError: it is no plain array, or of another shape or type.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except npy.NOT_NPY as error:
        raise DataError(f"{path}: not a plain .npy array: {error}") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise DataError(f"{path}: got {array.dtype} {array.shape}, expected {dtype} {shape}")
    return array
