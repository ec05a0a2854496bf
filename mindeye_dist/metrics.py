"""Retrieval metrics: pure functions of a similarity matrix, brains in rows, images in columns.

`brain_to_image` ranks the images of a pool for each brain; `image_to_brain` ranks the brains for
each image. (The published code's "forward" is image_to_brain.) Scotti et al. (2023), section 4.1.
"""

from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from mindeye_dist.errors import InputError
from mindeye_dist.randomness import numpy_generator

Direction = Literal["brain_to_image", "image_to_brain"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def ranks(
    similarity: Float[np.ndarray, "brains images"], direction: Direction
) -> Int[np.ndarray, " queries"]:
    """Return the rank of the true match of each query, 0 for the best; ties count against it.

    Raises:
        InputError: the pool is not square or holds a value that is not finite.
    """
    if similarity.shape[0] != similarity.shape[1]:
        raise InputError(
            f"similarity: got shape {similarity.shape}, expected as many brains as images"
        )
    if not np.isfinite(similarity).all():
        raise InputError("similarity: got a value that is not finite")
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


NORMAL_95 = 1.959964
"""Standard errors to either side of a mean within which 95 % of a normal distribution lie."""


PUBLISHED_POOL = 300
"""Pictures of a pool of the published protocol."""


def similarity(
    brains: Float[np.ndarray, "brains features"],
    images: Float[np.ndarray, "images features"],
    centred: bool = False,
) -> Float[np.ndarray, "brains images"]:
    """Return the cosine of every brain's embedding with every image's."""
    if centred:
        brains, images = brains - brains.mean(axis=0), images - images.mean(axis=0)
    return _unit(brains) @ _unit(images).T


def scores(
    similarities: Float[np.ndarray, "brains images"], generator: np.random.Generator
) -> dict[str, Any]:
    """Return each direction's top-1 with its 95 % interval, top-5, median rank (1 is best)."""
    result: dict[str, Any] = {}
    for direction in DIRECTIONS:
        rank = ranks(similarities, direction)
        result[direction] = {
            "top1": top_k(rank, 1),
            "top1_ci": list(bootstrap_interval((rank < 1).astype(float), generator)),
            "top5": top_k(rank, 5),
            "median_rank": float(np.median(rank) + 1),
        }
    return result


def retrieval_in_draws(
    brains: Float[np.ndarray, "brains features"],
    images: Float[np.ndarray, "images features"],
    pool: int = PUBLISHED_POOL,
    draws: int = 30,
    *,
    seed: int,
) -> dict[str, Any]:
    """Return top-1 in random pools, by direction, raw and centred over each pool.

    The mean over draws with its normal 95 % interval, whose standard error is sd / sqrt(draws): 300
    pictures and 30 draws as published (Scotti et al. 2023, section 4.1). The published pools were
    runs of neighbouring samples; here each is drawn without replacement.

    Raises:
        InputError: there are not as many images as brains, or fewer of them than a pool holds.
    """
    if len(brains) != len(images):
        raise InputError(f"got {len(brains)} brains and {len(images)} images, expected as many")
    if not 2 <= pool <= len(brains) or draws < 1:
        raise InputError(
            f"got {draws} draws of a pool of {pool}, expected at least 1 draw of 2 to "
            f"{len(brains)}, the number of brains"
        )
    generator = numpy_generator(seed, "retrieval in draws")
    whole = similarity(brains, images)
    hits: dict[str, list[float]] = {}
    for _ in range(draws):
        some = generator.choice(len(brains), pool, replace=False)
        tables = {
            "": whole[np.ix_(some, some)],
            "_centred": similarity(brains[some], images[some], centred=True),
        }
        for suffix, table in tables.items():
            for direction in DIRECTIONS:
                hits.setdefault(direction + suffix, []).append(top_k(ranks(table, direction), 1))
    rows = {name: _normal_interval(np.array(values)) for name, values in hits.items()}
    return {"pool": pool, "draws": draws, "chance": 1 / pool, **rows}


def _normal_interval(values: Float[np.ndarray, " draws"]) -> dict[str, Any]:
    mean, reach = float(values.mean()), NORMAL_95 * float(values.std()) / len(values) ** 0.5
    return {"top1": mean, "top1_ci": [mean - reach, mean + reach]}


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
