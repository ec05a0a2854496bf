"""Rows of pictures to score: the model's reconstructions and their controls.

In: a Reconstructor and brains of the test split. Out: pictures (pictures, side, side, 3) by row.
Controls without the brain: shuffled, mean brain. Without the generator: low-level picture, best
training picture, nearest picture of a pool. Upper bound: true tokens. The model with one change:
fewer candidates, another seed, first candidate, single trial, no low-level picture.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8

from mindeye_dist.data.dataset import Dataset
from mindeye_dist.decoding.pools.faiss_pool import Pool
from mindeye_dist.decoding.reconstructor import Reconstructions, Reconstructor
from mindeye_dist.errors import InputError
from mindeye_dist.pictures import RgbPictures, as_bytes, as_unit, decode, sized
from mindeye_dist.randomness import numpy_generator

BLOCK = 256
"""Number of training pictures whose tokens are compared at once."""
BRAINS_AT_ONCE = 16
"""Number of brains whose candidates are in memory at full size: 16 x 16 of 512 pixels, 200 MB."""
PAGE_SIDE = 128
"""Largest width of a picture on the page, in pixels."""


@dataclass(frozen=True)
class PictureRow:
    """Pictures that are scored together.

    Attributes:
        label: name of the row for readers.
        note: short description for readers; may be empty.
        pictures: one picture per brain.
    """

    label: str
    note: str
    pictures: RgbPictures


@dataclass(frozen=True, kw_only=True)
class ModelPictures:
    """The parts of the model's reconstructions that scores and page need.

    All candidates at full size would be 12 GB for 982 x 16 of 512 pixels.

    Attributes:
        keys: keys of the seen pictures.
        pictures: each brain's best candidate.
        fewer: best of each brain's first candidates, as many as the controls have.
        first: each brain's first candidate.
        page_candidates: all candidates at the page's size.
        scores: scores of all candidates.
        lowlevel: blurry pictures that generation started from; None without a low-level pipeline.
    """

    keys: tuple[str, ...]
    pictures: RgbPictures
    fewer: RgbPictures
    first: RgbPictures
    page_candidates: UInt8[np.ndarray, "pictures candidates small small 3"]
    scores: Float[np.ndarray, "pictures candidates"]
    lowlevel: RgbPictures | None


@dataclass(frozen=True, kw_only=True)
class BrainSelection:
    """Brains whose pictures are reconstructed.

    Attributes:
        train: training split, for controls.
        test: test split.
        numbers: indices of the selected samples of the test split.
    """

    train: Dataset
    test: Dataset
    numbers: Sequence[int]

    @property
    def keys(self) -> list[str]:
        """Keys of the selected samples."""
        return [self.test.samples[n].key for n in self.numbers]

    def averages(self) -> Float32[np.ndarray, "brains voxels"]:
        """Return each sample's mean over its repeats."""
        repeats = self.test.voxels(self.numbers)
        return np.stack([r.astype(np.float32).mean(axis=0) for r in repeats])


def reconstruct_brains(
    reconstructor: Reconstructor, brains: BrainSelection
) -> Iterator[Reconstructions]:
    """Yield the reconstructions from the mean of repeats, `BRAINS_AT_ONCE` brains at a time."""
    voxels, keys = brains.averages(), brains.keys
    for some in _blocks(len(keys)):
        yield reconstructor(voxels[some], keys[some])


def collect_pictures(parts: Iterable[Reconstructions], few: int) -> ModelPictures:
    """Join the model's reconstructions, each part reduced before the next one is taken.

    Args:
        parts: reconstructions of some brains each.
        few: number of candidates of the controls.
    """
    rows = [_reduce(part, few) for part in parts]
    lowlevel = [row.lowlevel for row in rows if row.lowlevel is not None]
    return ModelPictures(
        keys=tuple(key for row in rows for key in row.keys),
        pictures=np.concatenate([row.pictures for row in rows]),
        fewer=np.concatenate([row.fewer for row in rows]),
        first=np.concatenate([row.first for row in rows]),
        page_candidates=np.concatenate([row.page_candidates for row in rows]),
        scores=np.concatenate([row.scores for row in rows]),
        lowlevel=np.concatenate(lowlevel) if lowlevel else None,
    )


def _reduce(part: Reconstructions, few: int) -> ModelPictures:
    return ModelPictures(
        keys=part.keys,
        pictures=part.pictures,
        fewer=_best_of_first(part, few),
        first=part.candidates[:, 0].copy(),  # a view would keep all candidates in memory
        page_candidates=np.stack([shrink_for_page(rgb) for rgb in part.candidates]),
        scores=part.scores,
        lowlevel=part.lowlevel,
    )


def picture_rows(
    reconstructor: Reconstructor,
    brains: BrainSelection,
    model: ModelPictures,
    control_candidates: int,
    seed: int,
    pool: Pool | None = None,
) -> dict[str, PictureRow]:
    """Return the rows to score by name: the model first, then its controls.

    Args:
        reconstructor: reconstructor of the model's pictures.
        brains: brains of the model's pictures.
        model: pictures from the mean of the brains' repeats, with all candidates.
        control_candidates: number of candidates of the controls.
        seed: seed of the shuffle.
        pool: pool whose nearest pictures are another control.
    """
    count = model.scores.shape[1]
    few = min(control_candidates, count)
    best_of = f"best of {few}"
    rows = {"model": PictureRow("This model", f"best of {count}", model.pictures)}
    control = replace(reconstructor, config=replace(reconstructor.config, candidates=few))
    upper = _from_true_tokens(reconstructor, brains, model.lowlevel)
    rows["true_tokens"] = PictureRow("True tokens", f"upper bound, best of {count}", upper)
    if few < count:
        rows["fewer"] = PictureRow(f"Model, {best_of}", "", model.fewer)
    other = replace(control, config=replace(control.config, seed=control.config.seed + 1))
    reseeded = other(brains.averages(), brains.keys).pictures
    rows["other_seed"] = PictureRow("Model, other seeds", best_of, reseeded)
    rows["no_choice"] = PictureRow("Model, first candidate", "no choice", model.first)
    rows |= _with_less_input(control, brains, model, best_of)
    training = best_training_pictures(reconstructor, brains)
    rows["best_training_picture"] = PictureRow("Best training picture", "", training)
    if pool is not None:
        nearest = nearest_pool_pictures(pool, reconstructor, brains)
        rows["pool"] = PictureRow("Nearest of a pool", f"{len(pool):,} pictures", nearest)
    mean = brains.train.averages().mean(axis=0, keepdims=True)
    average = control(mean, ["mean brain"]).pictures.repeat(len(brains.numbers), axis=0)
    rows["mean_brain"] = PictureRow("Mean brain", best_of, average)
    rows["shuffled"] = PictureRow(
        "Shuffled brains", "", model.pictures[derangement(len(average), seed)]
    )
    return rows


def _from_true_tokens(
    reconstructor: Reconstructor, brains: BrainSelection, blurry: RgbPictures | None
) -> RgbPictures:
    true = brains.test.targets("clip_tokens", [(n, 0) for n in brains.numbers])
    tokens = np.stack(true).astype(np.float32)
    lowlevel = None if blurry is None else torch.from_numpy(as_unit(blurry))
    parts = [
        reconstructor.from_tokens(
            tokens[some], brains.keys[some], None if lowlevel is None else lowlevel[some]
        ).pictures
        for some in _blocks(len(tokens))
    ]
    return np.concatenate(parts)


def _with_less_input(
    control: Reconstructor, brains: BrainSelection, model: ModelPictures, best_of: str
) -> dict[str, PictureRow]:
    rows = {}
    if model.lowlevel is not None:
        without = replace(control, lowlevel=None)(brains.averages(), brains.keys).pictures
        rows["no_lowlevel"] = PictureRow("Model, no low-level picture", best_of, without)
        rows["lowlevel_only"] = PictureRow("Low-level picture alone", "", model.lowlevel)
    repeats = brains.test.voxels(brains.numbers)
    if any(len(r) > 1 for r in repeats):
        single = control(np.stack([r[0].astype(np.float32) for r in repeats]), brains.keys)
        rows["single_trial"] = PictureRow("Model, single trial", best_of, single.pictures)
    return rows


def best_training_pictures(reconstructor: Reconstructor, brains: BrainSelection) -> RgbPictures:
    """Return each brain's training picture with the clip_tokens nearest to its embedding."""
    embeddings = reconstructor.predictor.embed(brains.averages())
    best = np.full(len(embeddings), -np.inf)
    numbers = np.zeros(len(embeddings), int)
    for start, tokens in _token_blocks(brains.train):
        cosines = embeddings @ tokens.T
        nearest = cosines.argmax(axis=1)
        cosine = cosines[np.arange(len(embeddings)), nearest]
        numbers = np.where(cosine > best, start + nearest, numbers)
        best = np.maximum(best, cosine)
    files = brains.train.pictures(numbers.tolist())
    return _decode_all(files, reconstructor.generator.side, "training picture")


def nearest_pool_pictures(
    pool: Pool, reconstructor: Reconstructor, brains: BrainSelection
) -> RgbPictures:
    """Return each brain's nearest picture of a pool, copies of test pictures excluded."""
    embeddings = reconstructor.predictor.embed(brains.averages())
    seen = brains.test.pictures(range(len(brains.test)))
    nearest, _ = pool.search(embeddings, 1, excluded=pool.copies_of(seen))
    files = pool.pictures(nearest[:, 0].tolist())
    return _decode_all(files, reconstructor.generator.side, "picture of the pool")


def _decode_all(files: Sequence[bytes], side: int, label: str) -> RgbPictures:
    """Decode picture files of any size and scale them to `side` x `side`."""
    images = [sized(as_unit(decode(file, label))[None], side) for file in files]
    return as_bytes(np.concatenate(images))


def _token_blocks(train: Dataset) -> Iterator[tuple[int, Float32[np.ndarray, "block features"]]]:
    """Yield the first index of each block and its flattened clip_tokens, scaled to unit norm."""
    for start in range(0, len(train), BLOCK):
        requests = [(n, 0) for n in range(start, min(start + BLOCK, len(train)))]
        block = np.stack(train.targets("clip_tokens", requests)).astype(np.float32)
        flat = block.reshape(len(block), -1)
        yield start, flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, BRAINS_AT_ONCE):
        yield slice(start, start + BRAINS_AT_ONCE)


def shrink_for_page(pictures: RgbPictures) -> RgbPictures:
    """Scale pictures down to `PAGE_SIDE` where they are larger."""
    return as_bytes(sized(as_unit(pictures), min(PAGE_SIDE, pictures.shape[1])))


def _best_of_first(model: Reconstructions, count: int) -> RgbPictures:
    """Return the best of each brain's first `count` candidates."""
    chosen = model.scores[:, :count].argmax(axis=1)
    return model.candidates[np.arange(len(chosen)), chosen]


def derangement(count: int, seed: int) -> Int[np.ndarray, " count"]:
    """Return a random permutation without fixed points.

    Raises:
        InputError: `count` is less than 2.
    """
    if count < 2:
        raise InputError(f"shuffled brains: got {count} picture, expected at least 2")
    order = numpy_generator(seed, "shuffled brains").permutation(count)
    shuffled = np.empty(count, int)
    shuffled[order] = np.roll(order, 1)
    return shuffled
