"""Retrieval metrics: pure functions of a similarity matrix, brains in rows, images in columns.

`brain_to_image` ranks the images of a pool for each brain; `image_to_brain` ranks the brains for
each image. (The published code's "forward" is image_to_brain.) Scotti et al. (2023), section 4.1.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

Direction = Literal["brain_to_image", "image_to_brain"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def ranks(
    similarity: Float[np.ndarray, "brains images"], direction: Direction
) -> Int[np.ndarray, " queries"]:
    """Return the rank of the true match of each query, 0 for the best; ties count against it.

    Raises:
        ValueError: the pool is not square or holds a value that is not finite.
    """
    if similarity.shape[0] != similarity.shape[1]:
        raise ValueError(
            f"similarity: got shape {similarity.shape}, expected as many brains as images"
        )
    if not np.isfinite(similarity).all():
        raise ValueError("similarity: got a value that is not finite")
    scores = similarity if direction == "brain_to_image" else similarity.T
    truth = np.diagonal(scores)[:, None]
    return (scores >= truth).sum(axis=1) - 1


def top_k(rank: Int[np.ndarray, " queries"], k: int) -> float:
    """Return the share of queries (0..1) whose true match is among the best k."""
    return float((rank < k).mean())


def bootstrap_interval(
    hits: Float[np.ndarray, " queries"], generator: np.random.Generator, draws: int = 2000
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean over resampled queries."""
    picks = generator.integers(0, len(hits), (draws, len(hits)))
    low, high = np.percentile(hits[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
