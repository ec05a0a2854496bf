"""Files of a pool: pictures -> shards, clip_tokens, their search index, and pool.json.

A pool is a folder. `pool.json` is written last; a folder without it was not completed and has to
be built again. The pictures are square and lie in shards. The clip_tokens (pictures, tokens, dim)
are one memory-mapped float16 array, with a checksum for each picture.
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
POOL_JSON, INDEX, TOKENS = "pool.json", "index.faiss", "tokens.npy"
COMPONENTS, CHECKSUMS, THUMBNAILS = "components.npy", "checksums.npy", "thumbnails.npy"
FILES = (INDEX, COMPONENTS, TOKENS, CHECKSUMS, THUMBNAILS)
FLAT_UP_TO = 10_000
"""Largest number of pictures that the first stage of a search compares one by one."""
MAX_SIDE = 256
"""Largest width of a stored picture, in pixels."""
SOURCE, JPEG = "source.txt", "jpg"


@dataclass(frozen=True, kw_only=True)
class PoolFile:
    """Size and digest of a file; sha256 is "" where the file's parts have checksums."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PoolRecord:
    """Content of `pool.json`.

    Attributes:
        format: version of the layout.
        count: number of pictures.
        encoder: name of the encoder of the clip_tokens.
        digest: digest of its weights and preprocessing.
        shape: shape of one picture's clip_tokens, (tokens, dim).
        num_components: number of principal components in the index.
        index: "flat", or "ivf" and the number of its lists.
        files: size and digest of each file, by its name.
        shards: shards of the pictures.
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
) -> PoolRecord:
    """Build a pool: encode the pictures, write all files, and return the content of pool.json.

    Args:
        folder: created if missing; a pool in it is invalid from the first write on.
        pictures: name and bytes of JPEG or PNG files, consumed in batches.
        encoder: encoder of the clip_tokens.
        max_side: largest width of a stored picture (its central square), in pixels.
        flat_up_to: largest number of pictures with an exact first stage.

    Raises:
        DataError: there are no pictures, a picture cannot be read, its tokens are not finite in
            float16 or all zero, or the folder cannot be written.
    """
    try:
        (folder / POOL_JSON).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        shards = _write_pictures(folder, pictures, encoder, max_side)
        tokens = np.load(folder / TOKENS, mmap_mode="r", allow_pickle=False)
        components = fit_components(tokens)
        np.save(folder / COMPONENTS, components, allow_pickle=False)
        record = PoolRecord(
            format=FORMAT,
            count=len(tokens),
            encoder=encoder.name,
            digest=encoder.digest,
            shape=encoder.shape,
            num_components=len(components),
            index=write_search_index(folder / INDEX, tokens, components, flat_up_to),
            files={name: _pool_file(folder / name) for name in FILES},
            shards=shards,
        )
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error}") from error
    text = json.dumps(dataclasses.asdict(record), indent=1)
    Store(str(folder)).write(POOL_JSON, text.encode())
    return record


def read_pool_record(folder: Path, targets: TargetShape) -> PoolRecord:
    """Read pool.json, and verify the pool's files and its encoder.

    Args:
        folder: folder of the pool.
        targets: clip_tokens that the pool's must be comparable with.

    Raises:
        DataError: the pool is incomplete, its encoder is another one, or a file is missing or
            damaged.
    """
    record = _parse_record(folder)
    _check_targets(folder, record, targets)
    for name, file in record.files.items():
        _check_file(folder / name, file)
    for shard in record.shards:
        if not (folder / shard.path).resolve().is_relative_to(folder.resolve()):
            raise DataError(
                f"{folder / POOL_JSON}: got the path {shard.path!r}, expected one inside"
            )
        _check_file(folder / shard.path, PoolFile(num_bytes=shard.num_bytes, sha256=""))
    count = sum(shard.num_samples for shard in record.shards)
    if count != record.count:
        raise DataError(f"{folder}: its shards hold {count} pictures, expected {record.count}")
    return record


def _write_pictures(
    folder: Path, pictures: Iterable[tuple[str, bytes]], encoder: TargetEncoder, max_side: int
) -> tuple[Shard, ...]:
    with open(folder / TOKENS, "wb") as file:
        writer = _TokenWriter(file, encoder, max_side)
        shards = write_shards(Store(str(folder)), "pictures/pictures", writer.samples(pictures))
        if not shards:
            raise DataError(f"{folder}: got no pictures for the pool")
        writer.write_header()
    np.save(folder / CHECKSUMS, np.array(writer.checksums, np.uint64), allow_pickle=False)
    np.save(folder / THUMBNAILS, np.array(writer.thumbnails), allow_pickle=False)
    return shards


class _TokenWriter:
    """Writes clip_tokens row by row, and collects their checksums and the pictures' thumbnails."""

    def __init__(self, file: BinaryIO, encoder: TargetEncoder, max_side: int) -> None:
        self.checksums: list[int] = []
        self.thumbnails: list[np.ndarray] = []
        self._file, self._encoder, self._max_side = file, encoder, max_side
        self.write_header()

    def write_header(self) -> None:
        """Write the .npy header for the rows so far; its length does not depend on their number."""
        self._file.seek(0)
        shape = (len(self.checksums), *self._encoder.shape)
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def samples(
        self, pictures: Iterable[tuple[str, bytes]]
    ) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Write each picture's tokens, and yield the picture as a sample for the shards."""
        remaining = iter(pictures)
        while chunk := list(islice(remaining, BATCH)):
            names = [name for name, _ in chunk]
            jpegs = [_square_jpeg(data, self._max_side, name) for name, data in chunk]
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


def _square_jpeg(data: bytes, max_side: int, name: str) -> bytes:
    return square_jpeg(data, min(max_side, *decode(data, name).shape[:2]), name)


def tokens_checksum(rows: Float[np.ndarray, "..."]) -> int:
    """Return the xxh3_64 checksum of one picture's tokens."""
    return xxhash.xxh3_64_intdigest(rows.tobytes())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pool_file(path: Path) -> PoolFile:
    return PoolFile(
        num_bytes=path.stat().st_size, sha256="" if path.name == TOKENS else _sha256(path)
    )


def _parse_record(folder: Path) -> PoolRecord:
    where = folder / POOL_JSON
    if not where.exists():
        raise DataError(
            f"{folder}: has no {POOL_JSON}: it is no pool, or its building was cut short; build it "
            "again"
        )
    try:
        values: Any = json.loads(where.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{where}: expected a pool of format {FORMAT!r}")
    try:
        record = from_dict(PoolRecord, values, partial=True)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if set(record.files) != set(FILES) or len(record.shape) != 2:
        raise DataError(
            f"{where}: got files {sorted(record.files)} and tokens {record.shape}, expected "
            f"{list(FILES)} and (tokens, dim)"
        )
    return record


def _check_targets(folder: Path, record: PoolRecord, targets: TargetShape) -> None:
    given, wanted = (record.digest, record.shape), (targets.digest, targets.shape)
    if given != wanted:
        raise DataError(
            f"{folder}: its tokens are by {record.encoder} {record.digest[:12]}, shape "
            f"{record.shape}, the embeddings are compared with those by {targets.encoder} "
            f"{targets.digest[:12]}, shape {targets.shape}; build a pool with that encoder"
        )


def _check_file(path: Path, file: PoolFile) -> None:
    if not path.exists():
        raise DataError(f"{path}: is missing; build the pool again")
    num_bytes = path.stat().st_size
    if num_bytes != file.num_bytes:
        raise DataError(f"{path}: has {num_bytes} bytes, expected {file.num_bytes}")
    if file.sha256 and _sha256(path) != file.sha256:
        raise DataError(f"{path}: is damaged: its digest is not the one of {POOL_JSON}")


def memory_map(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a .npy file as a memory-mapped array.

    Raises:
        DataError: the file is not a plain .npy array, or has another shape or type.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except npy.NOT_NPY as error:
        raise DataError(f"{path}: not a plain .npy array: {error}") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise DataError(f"{path}: got {array.dtype} {array.shape}, expected {dtype} {shape}")
    return array
