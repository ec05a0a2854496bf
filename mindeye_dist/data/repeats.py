"""One training response made of a picture's distinct repeats."""

import numpy as np
import torch
from jaxtyping import Float

from mindeye_dist.randomness import numpy_generator

COMBINED, AVERAGED = 0.5, 0.3
"""Of `random_combine`: the shares of samples that are a combination of all rows, or their mean."""


def chances(
    seed: int, step: int, count: int, num_repeats: int
) -> Float[np.ndarray, "batch chances"]:
    """Return what `draw_repeat` takes for each place of a step's global batch, uniform in 0..1."""
    return numpy_generator(seed, "repeat", step).random((count, 1 + num_repeats))


def draw_repeat(
    voxels: Float[np.ndarray, "repeats voxels"],
    how: str,
    turn: int,
    chance: Float[np.ndarray, " chances"],
) -> Float[np.ndarray, " voxels"]:
    """Return one response, in the repeats' precision where it is one of them.

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
    """Write what `single` returns into its place."""
    torch.from_numpy(place).copy_(torch.from_numpy(array))
