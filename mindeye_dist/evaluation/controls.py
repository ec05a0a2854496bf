"""Picture rows: the model's reconstructions, and what they are to be compared with.

Without the brain (shuffled, mean brain), without the generator (low-level picture, best training
picture), with perfect tokens; and the model with one thing changed: fewer candidates, another
seed, no choice, one trial, no low-level picture.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8

from mindeye_dist.data.dataset import Dataset
from mindeye_dist.decoding.config import ReconstructionConfig
from mindeye_dist.decoding.pools.faiss_pool import Pool, retrieve
from mindeye_dist.decoding.reconstructor import Reconstructions, Reconstructor
from mindeye_dist.errors import InputError
from mindeye_dist.pictures import Drawn, as_bytes, as_unit, decode, sized
from mindeye_dist.randomness import numpy_generator

BLOCK = 256
"""Training pictures whose tokens are compared at once."""
BRAINS_AT_ONCE = 16
"""Whose candidates are held at full size: 16 of 512 pixels each are 200 MB."""
SHOWN_SIDE = 128
"""Largest width of a picture on the page (pixels)."""


@dataclass(frozen=True)
class Row:
    """Pictures that are scored against the same seen ones, under a name for readers."""

    label: str
    note: str
    pictures: Drawn


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is kept of the model's reconstructions: 982 x 16 of 512 pixels would be 12 GB.

    Attributes:
        keys: of the pictures that were seen.
        pictures: each brain's best candidate.
        fewer: the best of its first candidates, as many as the controls have.
        first: its first candidate.
        shown: all candidates, as small as the page has them.
        scores: of all candidates.
        lowlevel: the blurry pictures that were drawn over, where there were any.
    """

    keys: tuple[str, ...]
    pictures: Drawn
    fewer: Drawn
    first: Drawn
    shown: UInt8[np.ndarray, "pictures candidates small small 3"]
    scores: Float[np.ndarray, "pictures candidates"]
    lowlevel: Drawn | None


@dataclass(frozen=True, kw_only=True)
class Brains:
    """Whose pictures are drawn: samples of the test split, by their place in it."""

    train: Dataset
    test: Dataset
    numbers: Sequence[int]

    @property
    def keys(self) -> list[str]:
        """Keys of the samples."""
        return [self.test.samples[n].key for n in self.numbers]

    def averages(self) -> Float32[np.ndarray, "brains voxels"]:
        """Return each one's mean over its repeats."""
        repeats = self.test.voxels(self.numbers)
        return np.stack([r.astype(np.float32).mean(axis=0) for r in repeats])


def kept(parts: Iterable[Reconstructions], few: int) -> Model:
    """Return what is kept of the model's reconstructions, which come some brains at a time.

    Args:
        parts: each is held until the next is drawn, no longer.
        few: candidates of what is drawn for comparison.
    """
    rows = [_kept(part, few) for part in parts]
    lowlevel = [row.lowlevel for row in rows if row.lowlevel is not None]
    return Model(
        keys=tuple(key for row in rows for key in row.keys),
        pictures=np.concatenate([row.pictures for row in rows]),
        fewer=np.concatenate([row.fewer for row in rows]),
        first=np.concatenate([row.first for row in rows]),
        shown=np.concatenate([row.shown for row in rows]),
        scores=np.concatenate([row.scores for row in rows]),
        lowlevel=np.concatenate(lowlevel) if lowlevel else None,
    )


def _kept(part: Reconstructions, few: int) -> Model:
    return Model(
        keys=part.keys,
        pictures=part.pictures,
        fewer=_best(part, few),
        first=part.candidates[:, 0].copy(),  # a view would hold all of them
        shown=np.stack([shown(candidates) for candidates in part.candidates]),
        scores=part.scores,
        lowlevel=part.lowlevel,
    )


def drawn_by(reconstructor: Reconstructor, brains: Brains) -> Iterator[Reconstructions]:
    """Yield a model's reconstructions from the mean of repeats, some brains at a time."""
    voxels, keys = brains.averages(), brains.keys
    for some in _blocks(len(keys)):
        yield reconstructor(voxels[some], keys[some])


def picture_rows(
    reconstructor: Reconstructor,
    brains: Brains,
    model: Model,
    control_candidates: int,
    seed: int,
    pool: Pool | None = None,
) -> dict[str, Row]:
    """Return what is scored, by name, the model first.

    Args:
        reconstructor: that drew `model`.
        brains: whose pictures it drew.
        model: from the mean of their repeats, with all candidates.
        control_candidates: of what is drawn for comparison.
        seed: of the shuffle.
        pool: whose nearest picture stands beside what is drawn.
    """
    count = model.scores.shape[1]
    few = min(control_candidates, count)
    best_of = f"best of {few}"
    rows = {"model": Row("This model", f"best of {count}", model.pictures)}
    control = configured(reconstructor, replace(reconstructor.config, candidates=few))
    true = brains.test.targets("clip_tokens", [(n, 0) for n in brains.numbers])
    tokens = np.stack(true).astype(np.float32)
    lowlevel = None if model.lowlevel is None else torch.from_numpy(as_unit(model.lowlevel))
    parts = [
        reconstructor.from_tokens(
            tokens[some], brains.keys[some], None if lowlevel is None else lowlevel[some]
        ).pictures
        for some in _blocks(len(tokens))
    ]
    upper = np.concatenate(parts)
    rows["true_tokens"] = Row("True tokens", f"upper bound, best of {count}", upper)
    if few < count:
        rows["fewer"] = Row(f"Model, {best_of}", "", model.fewer)
    other = configured(control, replace(control.config, seed=control.config.seed + 1))
    drawn = other(brains.averages(), brains.keys).pictures
    rows["other_seed"] = Row("Model, other seeds", best_of, drawn)
    rows["no_choice"] = Row("Model, first candidate", "no choice", model.first)
    rows |= _with_one_thing_changed(control, brains, model, best_of)
    training = best_training_pictures(reconstructor, brains)
    rows["best_training_picture"] = Row("Best training picture", "", training)
    if pool is not None:
        nearest = nearest_of_pool(pool, reconstructor, brains)
        rows["pool"] = Row("Nearest of a pool", f"{len(pool):,} pictures", nearest)
    mean = brains.train.averages().mean(axis=0, keepdims=True)
    average = control(mean, ["mean brain"]).pictures.repeat(len(brains.numbers), axis=0)
    rows["mean_brain"] = Row("Mean brain", best_of, average)
    rows["shuffled"] = Row("Shuffled brains", "", model.pictures[derangement(len(average), seed)])
    return rows


def configured(reconstructor: Reconstructor, config: ReconstructionConfig) -> Reconstructor:
    """Return the same reconstructor with other settings."""
    return Reconstructor(
        reconstructor.predictor,
        reconstructor.generator,
        reconstructor.encoder,
        config,
        reconstructor.lowlevel,
        watch=reconstructor.watch,
    )


def _with_one_thing_changed(
    control: Reconstructor, brains: Brains, model: Model, best_of: str
) -> dict[str, Row]:
    rows = {}
    if model.lowlevel is not None:
        alone = Reconstructor(control.predictor, control.generator, control.encoder, control.config)
        without = alone(brains.averages(), brains.keys).pictures
        rows["no_lowlevel"] = Row("Model, no low-level picture", best_of, without)
        rows["lowlevel_only"] = Row("Low-level picture alone", "", model.lowlevel)
    repeats = brains.test.voxels(brains.numbers)
    if any(len(r) > 1 for r in repeats):
        single = control(np.stack([r[0].astype(np.float32) for r in repeats]), brains.keys)
        rows["single_trial"] = Row("Model, single trial", best_of, single.pictures)
    return rows


def best_training_pictures(reconstructor: Reconstructor, brains: Brains) -> Drawn:
    """Return, for each brain, the training picture whose tokens are closest to the projector's."""
    wanted = reconstructor.predictor.embed(brains.averages())
    best = np.full(len(wanted), -np.inf)
    places = np.zeros(len(wanted), int)
    for start, tokens in _token_blocks(brains.train):
        cosines = wanted @ tokens.T
        nearest = cosines.argmax(axis=1)
        closeness = cosines[np.arange(len(wanted)), nearest]
        places = np.where(closeness > best, start + nearest, places)
        best = np.maximum(best, closeness)
    files = brains.train.pictures(places.tolist())
    return _all_sized(files, reconstructor.generator.side, "training picture")


def nearest_of_pool(pool: Pool, reconstructor: Reconstructor, brains: Brains) -> Drawn:
    """Return each brain's nearest picture of a pool, without copies of the test pictures."""
    wanted = reconstructor.predictor.embed(brains.averages())
    seen = brains.test.pictures(range(len(brains.test)))
    files = retrieve(pool, wanted, excluded=pool.copies_of(seen))
    side = reconstructor.generator.side
    return _all_sized(files, side, "picture of the pool")


def _all_sized(files: Sequence[bytes], side: int, what: str) -> Drawn:
    """Return picture files of any size scaled to `side` x `side`."""
    images = [sized(as_unit(decode(file, what))[None], side) for file in files]
    return as_bytes(np.concatenate(images))


def _token_blocks(train: Dataset) -> Iterator[tuple[int, Float32[np.ndarray, "block features"]]]:
    """Yield a split's flattened clip_tokens, of unit norm, and where each block starts."""
    for start in range(0, len(train), BLOCK):
        requests = [(n, 0) for n in range(start, min(start + BLOCK, len(train)))]
        block = np.stack(train.targets("clip_tokens", requests)).astype(np.float32)
        flat = block.reshape(len(block), -1)
        yield start, flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, BRAINS_AT_ONCE):
        yield slice(start, start + BRAINS_AT_ONCE)


def shown(drawn: Drawn) -> Drawn:
    """Return pictures as the page has them: small."""
    return as_bytes(sized(as_unit(drawn), min(SHOWN_SIDE, drawn.shape[1])))


def _best(model: Reconstructions, count: int) -> Drawn:
    """Return each brain's best among its first candidates."""
    chosen = model.scores[:, :count].argmax(axis=1)
    return model.candidates[np.arange(len(chosen)), chosen]


def derangement(count: int, seed: int) -> Int[np.ndarray, " count"]:
    """Return an order in which nothing is where it was.

    Raises:
        InputError: there is only one to order.
    """
    if count < 2:
        raise InputError(f"shuffled brains: got {count} picture, expected at least 2")
    order = numpy_generator(seed, "shuffled brains").permutation(count)
    shuffled = np.empty(count, int)
    shuffled[order] = np.roll(order, 1)
    return shuffled
