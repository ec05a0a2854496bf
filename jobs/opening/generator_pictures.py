"""Open training pictures of a generator, and prepare their latents and clip_tokens in memory.

In: `SourceOptions`, a codec. Out: a `PictureSource`; its latents and tokens in float16. Prepared
chunks are stored in the run folder, so that a killed run prepares no chunk twice.
"""

import hashlib
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from jobs.command import absolute_path, watched
from jobs.opening.encoders import target_encoder
from jobs.options.generator_pictures import SourceOptions
from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.data.shards import checksum
from mindeye_dist.errors import DataError, InputError
from mindeye_dist.frozen.codecs import LatentCodec
from mindeye_dist.frozen.encoders import ENCODED_AT_ONCE
from mindeye_dist.pictures import PictureFiles, decode, encode_jpeg, square_jpeg
from mindeye_dist.shapes import TargetShape
from mindeye_dist.simulation.config import GENERATOR_SERIES
from mindeye_dist.simulation.scenes import render_scene
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import check

CHUNK_PICTURES = 500
"""Pictures per prepared file, the most that a killed run loses."""
DAMAGED_CHUNK_ERRORS = (ValueError, KeyError, EOFError, BadZipFile, zlib.error, RuntimeError)
"""Exceptions raised by reading a damaged chunk; an unreadable one raises OSError."""
HASHED_SCENES = 8
"""Number of rendered scenes hashed to identify a series."""


@dataclass(frozen=True)
class PicturesInMemory:
    """Latents and clip_tokens of a generator's training pictures."""

    latents: Float16[np.ndarray, "pictures channels rows columns"]
    tokens: Float16[np.ndarray, "pictures tokens dim"]


@dataclass(frozen=True)
class PictureSource:
    """Training pictures and their clip_tokens, readable by range.

    Attributes:
        about: description for people.
        digest: digest of the pictures.
        count: number of pictures.
        read: returns the files of a range of pictures.
        tokens: returns the tokens of a range, given its files.
        targets: shape of the tokens, and their encoder.
    """

    about: str
    digest: str
    count: int
    read: Callable[[range], list[bytes]]
    tokens: Callable[[range, list[bytes]], np.ndarray]
    targets: TargetShape


def open_source(options: SourceOptions) -> PictureSource:
    """Return the chosen source: shards, files or rendered scenes."""
    if options.data_url:
        return shards_source(options)
    encoder = target_encoder(replace(options.encoder, device=options.device), None)
    if encoder.kind != "clip_tokens":
        raise InputError(
            f"--encoder.encoder: got {options.encoder.encoder}, expected an encoder of clip_tokens"
        )

    def tokens(_: range, files: list[bytes]) -> np.ndarray:
        parts = [
            encoder.encode(picture_tensor(files[start : start + ENCODED_AT_ONCE])).cpu().numpy()
            for start in range(0, len(files), ENCODED_AT_ONCE)
        ]
        return np.concatenate(parts)

    targets = TargetShape(encoder.shape, encoder.name, encoder.digest)
    if options.images:
        files = PictureFiles(Path(absolute_path(options.images)))

        def read(numbers: range) -> list[bytes]:
            names = [files.names[n] for n in numbers]
            where = options.images
            return [
                square_jpeg(files.read(name), options.image_side, f"{where}: {name}")
                for name in names
            ]

        digests = (checksum(files.read(name)) for name in files.names)
        return PictureSource(
            f"pictures of {options.images}",
            text_digest(f"{options.image_side} {' '.join(digests)}"),
            len(files.names),
            read,
            tokens,
            targets,
        )
    about = f"rendered scenes of series {GENERATOR_SERIES}"
    # A few scenes stand for all: if rendering changes, so do these.
    looks = text_digest(" ".join([about, *map(checksum, render_files(range(HASHED_SCENES)))]))
    return PictureSource(about, looks, options.scenes, render_files, tokens, targets)


def render_files(numbers: range) -> list[bytes]:
    """Return rendered scenes as JPEG files, as simulated subjects see them."""
    return [encode_jpeg(render_scene(n, GENERATOR_SERIES).picture) for n in numbers]


def shards_source(options: SourceOptions) -> PictureSource:
    """Return the distinct training pictures of shards, without those of any test split.

    Raises:
        DataError: no picture is left, or the subjects' tokens are by different encoders.
    """
    store = Store(absolute_path(options.data_url))
    manifest = read_manifest(store)
    subjects = options.subjects or tuple(manifest.subjects)
    held_out: set[str] = set()
    learned: list[str] = []
    for name in manifest.subjects:
        test = Dataset(store, manifest, DataConfig(subject=name), "test")
        held_out |= {checksum(data) for data in test.pictures(range(len(test)))}
    sets = {"clip_tokens": options.targets}
    found: list[tuple[Dataset, int]] = []
    for name in subjects:
        train = Dataset(store, manifest, DataConfig(subject=name), "train", sets)
        for n, data in enumerate(train.pictures(range(len(train)))):
            if checksum(data) not in held_out:
                held_out.add(checksum(data))  # once each
                learned.append(checksum(data))
                found.append((train, n))
    if not found:
        raise DataError(f"{store.locate('')}: no training pictures of {', '.join(subjects)}")
    stored = [manifest.subject(s).target_set("clip_tokens", options.targets) for s in subjects]
    if len({s.digest for s in stored}) > 1:
        raise DataError(f"{options.targets!r}: is by another encoder from subject to subject")
    targets = TargetShape(stored[0].shape, stored[0].encoder, stored[0].digest)

    def read(numbers: range) -> list[bytes]:
        return [found[n][0].pictures([found[n][1]])[0] for n in numbers]

    def tokens(numbers: range, _: list[bytes]) -> np.ndarray:
        return np.stack(
            [found[n][0].targets("clip_tokens", [(found[n][1], 0)])[0] for n in numbers]
        )

    about = f"training pictures of {options.data_url}"
    return PictureSource(about, text_digest(" ".join(learned)), len(found), read, tokens, targets)


def text_digest(text: str) -> str:
    """Return the first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def picture_tensor(files: Sequence[bytes]) -> Float[Tensor, "pictures 3 height width"]:
    """Decode picture files of one size to values in [0, 1]."""
    rgb = np.stack([decode(file, "a picture") for file in files])
    return torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255


def prepare_pictures(folder: Path, source: PictureSource, codec: LatentCodec) -> PicturesInMemory:
    """Return latents and tokens of all pictures, reusing chunks prepared earlier in `folder`."""
    chunks = folder / f"pictures-{text_digest(data_identity(source, codec))}"
    chunks.mkdir(exist_ok=True)
    latents = np.empty((source.count, *codec.shape), np.float16)
    tokens = np.empty((source.count, *source.targets.shape), np.float16)
    for start in watched(range(0, source.count, CHUNK_PICTURES), "preparing pictures, chunk"):
        numbers = range(start, min(start + CHUNK_PICTURES, source.count))
        part = slice(numbers.start, numbers.stop)
        latents[part], tokens[part] = prepare_chunk(
            chunks / f"{start}-{numbers.stop}.npz", numbers, source, codec
        )
    return PicturesInMemory(latents, tokens)


def prepare_chunk(
    path: Path, numbers: range, source: PictureSource, codec: LatentCodec
) -> tuple[np.ndarray, np.ndarray]:
    """Return latents and tokens of a range of pictures, read from `path` or written to it."""
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as there:
                latents, tokens = there["latents"], there["tokens"]
            for name, part, shape in (
                ("latents", latents, codec.shape),
                ("tokens", tokens, source.targets.shape),
            ):
                check(part.shape == (len(numbers), *shape), name, part.shape, str(shape))
            return latents, tokens
        except DAMAGED_CHUNK_ERRORS as error:
            print(f"{path}: is made again, it is damaged: {error}", file=sys.stderr)
    files = source.read(numbers)
    parts = [
        codec.encode(picture_tensor(files[start : start + ENCODED_AT_ONCE])).cpu().numpy()
        for start in range(0, len(files), ENCODED_AT_ONCE)
    ]
    latents = np.concatenate(parts).astype(np.float16)
    tokens = source.tokens(numbers, files).astype(np.float16)
    partial = path.with_name(f"{path.stem}.partial.npz")
    np.savez(partial, latents=latents, tokens=tokens)
    partial.replace(path)
    return latents, tokens


def data_identity(source: PictureSource, codec: LatentCodec) -> str:
    """Return a line that identifies pictures, encoder and codec."""
    return f"{source.count} {source.digest} {source.targets.digest} {codec.digest}"


def encode_pictures(codec: LatentCodec, pictures: np.ndarray) -> np.ndarray:
    """Return the latents of pictures with values in [-1, 1]."""
    latents = np.empty((len(pictures), *codec.shape), np.float16)
    for start in watched(range(0, len(pictures), CHUNK_PICTURES), "encoding pictures, chunk"):
        part = torch.from_numpy(pictures[start : start + CHUNK_PICTURES]).float()
        latents[start : start + CHUNK_PICTURES] = codec.encode(part / 2 + 0.5).cpu().numpy()
    return latents


def channel_moments(latents: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel over at most 2,000 pictures."""
    some = torch.from_numpy(latents[:: max(1, len(latents) // 2000)]).float()
    axes = (0, 2, 3)
    mean, deviation = some.mean(axes, keepdim=True)[0], some.std(axes, keepdim=True)[0]
    return mean, deviation.clamp_min(1e-3)
