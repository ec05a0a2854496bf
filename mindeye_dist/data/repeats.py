"""One training response made of a picture's distinct repeats."""

import numpy as np
import torch
from jaxtyping import Float

from mindeye_dist.randomness import numpy_generator

COMBINED, AVERAGED = 0.5, 0.3
"""Shares of samples under `random_combine`: a combination of all repeats; their mean."""


def chances(
    seed: int, step: int, count: int, num_repeats: int
) -> Float[np.ndarray, "batch chances"]:
    """Draw uniform numbers in 0..1 for `draw_repeat`, a row for each position of a batch."""
    return numpy_generator(seed, "repeat", step).random((count, 1 + num_repeats))


def draw_repeat(
    voxels: Float[np.ndarray, "repeats voxels"],
    how: str,
    turn: int,
    chance: Float[np.ndarray, " chances"],
) -> Float[np.ndarray, " voxels"]:
    """Return one response made of a picture's repeats; a single repeat keeps its precision.

    `cycle` takes row `turn` modulo their number, `random` any row, `mean` their mean.
    `random_combine` is the published low-level recipe, drawn for each sample: with 50 % a random
    convex combination, with 30 % the mean, else any row.
    """
    number = len(voxels)
    if how == "random_combine":
        how = "mean" if chance[0] < COMBINED + AVERAGED else "random"
        if chance[0] < COMBINED:
            how = "combine"
    if how in ("mean", "combine"):
        weights = chance[1 : 1 + number] if how == "combine" else np.ones(number)
        return (weights / weights.sum()).astype(np.float32) @ single(voxels)
    row = turn % number if how == "cycle" else int(chance[1] * number)
    return voxels[row]


def single(array: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return an array in single precision; by torch, as NumPy has no fast way from half."""
    return torch.from_numpy(array).float().numpy()


def put_single(array: Float[np.ndarray, "*shape"], place: Float[np.ndarray, "*shape"]) -> None:
    """Write an array into another one in single precision."""
    torch.from_numpy(place).copy_(torch.from_numpy(array))
