"""Build a pool of pictures, and search it with the embeddings of a run's test brains.

In: pictures and an encoder of clip_tokens; or a pool and a checkpoint on the same clip_tokens.
Out: an index on disk; or matches.jsonl and sheet.png. Pictures that the brain saw are excluded by
default, with their resized or recompressed copies; other crops of them are not recognised.
"""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from jobs.command import absolute_path, watched
from jobs.opening.checkpoints import chosen_checkpoint, data_store, open_data
from jobs.opening.encoders import target_encoder
from jobs.options.pool import Build, Search
from mindeye_dist.data.dataset import Dataset, picture_member
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import Sample, read_index
from mindeye_dist.decoding.pools.faiss_files import MAX_SIDE, POOL_JSON, build_pool
from mindeye_dist.decoding.pools.faiss_pool import Pool
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.errors import DataError, InputError
from mindeye_dist.evaluation.data import check_data
from mindeye_dist.pictures import PictureFiles, decode
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.storage.store import Store

READ_AT_ONCE, SEARCHED_AT_ONCE = 32, 16
"""Pictures read, and brains searched for, in one batch."""
CELL, CAPTION, GAP = 160, 14, 4
"""Width of a picture on the sheet, height of its caption, space between, in pixels."""


@dataclass(frozen=True)
class PoolMatches:
    """Numbers and cosines of the pictures found for each brain, best first, (brains, k)."""

    numbers: np.ndarray
    cosines: np.ndarray


def build_from_options(options: Build) -> int:
    """Build a pool and return the number of its pictures.

    Raises:
        DataError: the pool exists already, there is no picture, or one cannot be read.
        InputError: the encoder makes no clip_tokens, or its weights are missing.
    """
    if "://" in options.out:
        raise InputError(f"--out: got {options.out}, expected a folder on this machine")
    if Path(options.out, POOL_JSON).exists() and not options.overwrite:
        raise DataError(f"{options.out}: is a pool already; --overwrite replaces it")
    if options.model.encoder == "efficientnet-lite0" and not options.data_url:
        raise InputError("--data-url: got none, efficientnet-lite0's projection is in its shards")
    encoder = target_encoder(options.model, Store(options.data_url or "."))
    if encoder.kind != "clip_tokens":
        raise InputError(
            f"--encoder: {options.model.encoder} makes {encoder.kind}, a pool has clip_tokens"
        )
    print(f"clip_tokens by {encoder.name}, digest {encoder.digest}", file=sys.stderr)
    pictures = file_pictures(options) if options.images else shard_pictures(options)
    return build_pool(Path(options.out), pictures, encoder, picture_side(options)).count


def picture_side(options: Build) -> int:
    """Return the width of a pool's pictures, in pixels."""
    if options.max_side or not options.data_url:
        return options.max_side or MAX_SIDE
    store, samples = split_samples(options)
    picture = read_members(store, [(samples[0], picture_member(samples[0]))])[0]
    return min(decode(picture, f"{options.data_url}: sample {samples[0].key}").shape[:2])


def file_pictures(options: Build) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each picture of a folder or tar."""
    with PictureFiles(Path(options.images)) as files:
        for name in watched(files.names, "encoding pictures"):
            yield name, files.read(name)


def shard_pictures(options: Build) -> Iterator[tuple[str, bytes]]:
    """Yield key and bytes of each picture of a subject's split."""
    store, samples = split_samples(options)
    for start in watched(range(0, len(samples), READ_AT_ONCE), "encoding batches"):
        some = samples[start : start + READ_AT_ONCE]
        bodies = read_members(store, [(sample, picture_member(sample)) for sample in some])
        yield from zip([sample.key for sample in some], bodies, strict=True)


def split_samples(options: Build) -> tuple[Store, list[Sample]]:
    """Return the shards' store, and the samples of a subject's split.

    Raises:
        DataError: the subject has no such split.
    """
    store = Store(options.data_url)
    splits = read_manifest(store).subject(options.subject).splits
    if not splits.get(options.split):
        raise DataError(f"{options.subject}: no split {options.split!r}, only {sorted(splits)}")
    return store, [s for shard in splits[options.split] for s in read_index(store, shard)]


def search_pool(options: Search) -> Path:
    """Search a pool with the brains of the test split, and return the sheet's path.

    Raises:
        CheckpointError: the run has no good checkpoint.
        DataError: pool or shards are damaged, or made by another encoder than the checkpoint's.
        InputError: the checkpoint is low-level, or the pool has fewer than `k` pictures.
    """
    path, _ = chosen_checkpoint(options)
    predictor = Predictor(path, options.device)
    if predictor.config.pipeline == "lowlevel":
        raise InputError(f"search: {path} is of the lowlevel pipeline, which has no embeddings")
    pool = Pool(Path(options.pool), predictor.shapes.targets["clip_tokens"])
    store = data_store(options, predictor)
    data = open_data(predictor, store, read_manifest(store), options.device)
    check_data(predictor, data)
    test = data.splits["test"]
    excluded = seen_pictures(pool, test, options)
    matches = search_brains(pool, predictor.embed(test.averages()), excluded, options)
    out = Store(options.out)
    out.write("matches.jsonl", "".join(match_lines(pool, test, matches)).encode())
    out.write("sheet.png", match_sheet(pool, test, matches, options))
    print(f"mean cosine of the best: {matches.cosines[:, 0].mean():.3f}")
    return Path(options.out, "sheet.png")


def seen_pictures(pool: Pool, test: Dataset, options: Search) -> list[int]:
    """Return the numbers of the pool's copies of test pictures, which a search must not return.

    Finding the picture that was seen would pass for a perfect reconstruction.
    """
    copies = pool.copies_of(test.pictures(range(len(test))))
    how = "included, by --include-seen" if options.include_seen else "excluded"
    print(f"pool: {len(pool)} pictures, {len(copies)} of them of the test split: {how}")
    return [] if options.include_seen else copies


def search_brains(
    pool: Pool, brains: np.ndarray, excluded: Sequence[int], options: Search
) -> PoolMatches:
    """Search the pool with embeddings of brains (brains, features)."""
    limits = (options.k, options.candidates, options.nprobe, excluded)
    parts = [
        pool.search(brains[start : start + SEARCHED_AT_ONCE], *limits)
        for start in watched(range(0, len(brains), SEARCHED_AT_ONCE), "searching, in batches")
    ]
    numbers, cosines = (np.concatenate(some) for some in zip(*parts, strict=True))
    return PoolMatches(numbers, cosines)


def match_lines(pool: Pool, test: Dataset, matches: PoolMatches) -> Iterator[str]:
    """Yield a JSON line for each brain: its key and its matches, best first."""
    for sample, numbers, cosines in zip(
        test.samples, matches.numbers.tolist(), matches.cosines.tolist(), strict=True
    ):
        found = [
            {"number": number, "source": source, "cosine": round(cosine, 6)}
            for number, source, cosine in zip(numbers, pool.sources(numbers), cosines, strict=True)
        ]
        yield json.dumps({"key": sample.key, "matches": found}) + "\n"


def match_sheet(pool: Pool, test: Dataset, matches: PoolMatches, options: Search) -> bytes:
    """Return a PNG of examples, one row each: the picture seen, then those found."""
    order = numpy_generator(options.seed, "pool examples").permutation(len(test))
    shown = order[: options.num_examples].tolist()
    width, height = CELL + GAP, CELL + CAPTION + GAP
    page = Image.new("RGB", (width * (1 + options.k), height * len(shown)), "white")
    draw = ImageDraw.Draw(page)
    for row, (brain, seen) in enumerate(zip(shown, test.pictures(shown), strict=True)):
        files = [seen, *pool.pictures(matches.numbers[brain].tolist())]
        words = [
            f"seen: {test.samples[brain].key}",
            *(f"{rank}: cosine {c:.2f}" for rank, c in enumerate(matches.cosines[brain], 1)),
        ]
        for column, (file, word) in enumerate(zip(files, words, strict=True)):
            picture = Image.fromarray(decode(file, word))
            picture.thumbnail((CELL, CELL))
            corner = (column * width, row * height)
            page.paste(picture, (corner[0], corner[1] + CAPTION))
            draw.text(corner, word, fill="black")
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def run(options: Build | Search) -> None:
    """Build or search a pool."""
    options = replace(options, out=absolute_path(options.out))
    if isinstance(options, Build):
        images, url = (absolute_path(p) if p else "" for p in (options.images, options.data_url))
        count = build_from_options(replace(options, images=images, data_url=url))
        print(f"wrote {options.out}: {count} pictures", file=sys.stderr)
    else:
        print(search_pool(replace(options, pool=absolute_path(options.pool))))
