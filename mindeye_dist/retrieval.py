"""Retrieval: embeddings of brains and images -> scores in both directions, raw and centred.

`brain_to_image` ranks images for a brain, `image_to_brain` brains for an image (Scotti et al. 2023,
section 4.1). Centred scores subtract each side's mean over the pool first, which undoes the hubness
of models that shrink to the mean.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from mindeye_dist.metrics import DIRECTIONS, bootstrap_interval, ranks, top_k


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


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
