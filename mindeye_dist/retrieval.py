"""Retrieval: embeddings of brains and images -> scores in both directions, raw and centred.

`brain_to_image` ranks images for a brain, `image_to_brain` brains for an image (Scotti et al. 2023,
section 4.1). Centred scores subtract each side's mean over the pool first, which undoes the hubness
of models that shrink to the mean.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from mindeye_dist.metrics import DIRECTIONS, bootstrap_interval, ranks, top_k
from mindeye_dist.randomness import numpy_generator

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
        ValueError: there are not as many images as brains, or fewer of them than a pool holds.
    """
    if len(brains) != len(images):
        raise ValueError(f"got {len(brains)} brains and {len(images)} images, expected as many")
    if not 2 <= pool <= len(brains) or draws < 1:
        raise ValueError(
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
