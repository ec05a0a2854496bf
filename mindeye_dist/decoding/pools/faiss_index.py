"""Search index of a pool: clip_tokens -> principal components -> approximate neighbours by FAISS.

In: clip_tokens (pictures, tokens, dim). Out: indices of the nearest pictures, the candidates of
the first stage of a search; faiss_pool.py ranks them by all tokens. The projector is trained on
the cosine of all tokens at once, so token 0 alone is a poor substitute; inner products of the
pool's leading principal components (not centred) approximate that cosine. For 500 brains simulated
with 64 principal components, the nearest of 3000 train pictures was among the 300 candidates for
36 % by token 0, for all by 128 components, and for 99.4 % with 16 of 55 lists searched.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mindeye_dist.errors import DataError

NUM_COMPONENTS = 128
FITTED_ON = 1024
"""Largest number of pictures that the components are fitted on."""
BLOCK_BYTES = 2**26
"""Approximate size of the largest temporary array, in bytes."""
_NEGLIGIBLE = 1e-6

Tokens = Float[np.ndarray, "pictures tokens dim"]
Components = Float[np.ndarray, "components features"]


def unit_tokens(
    tokens: Tokens,
) -> Float[np.ndarray, "pictures features"]:
    """Return each picture's flattened tokens, scaled to unit norm."""
    rows = tokens.reshape(len(tokens), -1).astype(np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def fit_components(tokens: Tokens) -> Components:
    """Return the leading principal components of evenly spaced pictures' unit tokens."""
    count = min(len(tokens), FITTED_ON)
    chosen = tokens[np.linspace(0, len(tokens) - 1, count).round().astype(np.int64)]
    sample = chosen.reshape(count, -1)
    at_once = max(1, BLOCK_BYTES // (4 * count))
    blocks = [slice(first, first + at_once) for first in range(0, sample.shape[1], at_once)]
    gram = np.zeros((count, count))
    for block in blocks:
        part = sample[:, block].astype(np.float32)
        gram += part @ part.T
    scale = 1 / np.sqrt(np.diag(gram))
    values, vectors = np.linalg.eigh(gram * scale * scale[:, None])
    kept = np.flatnonzero(values > _NEGLIGIBLE * values[-1])[-NUM_COMPONENTS:]
    weights = (vectors[:, kept] * scale[:, None] / np.sqrt(values[kept])).T.astype(np.float32)
    return np.concatenate([weights @ sample[:, block].astype(np.float32) for block in blocks], 1)


def write_search_index(path: Path, tokens: Tokens, components: Components, flat_up_to: int) -> str:
    """Write a FAISS index of the pictures' components, and return its kind.

    Up to `flat_up_to` pictures the index is "flat": a query is compared with every picture. Above,
    it is "ivf<n>": the pictures are divided among n = sqrt(pictures) k-means centres.
    """
    import faiss

    count, dim = len(tokens), len(components)
    num_lists = round(count**0.5) if count > flat_up_to else 0
    index: Any = faiss.IndexFlatIP(dim)
    if num_lists:
        index = faiss.IndexIVFFlat(index, dim, num_lists, faiss.METRIC_INNER_PRODUCT)
        # Evenly spaced pictures, as many as FAISS's k-means uses at most.
        step = max(1, count // (index.cp.max_points_per_centroid * num_lists))
        index.train(_project(tokens, np.arange(0, count, step), components))
    at_once = max(1, BLOCK_BYTES // (4 * components.shape[1]))
    for start in range(0, count, at_once):
        some = np.arange(start, min(start + at_once, count))
        index.add(_project(tokens, some, components))
    faiss.write_index(index, str(path))
    return f"ivf{num_lists}" if num_lists else "flat"


def read_search_index(path: Path, count: int, dim: int) -> Any:
    """Read a FAISS index; check the file's digest before, since FAISS does not validate it.

    Raises:
        DataError: the index has another number of pictures or components.
    """
    import faiss

    index = faiss.read_index(str(path))
    if (index.ntotal, index.d) != (count, dim):
        raise DataError(
            f"{path}: holds {index.ntotal} x {index.d} numbers, expected {count} x {dim}"
        )
    return index


def search_index(
    index: Any, queries: Float[np.ndarray, "brains components"], count: int, nprobe: int
) -> Int[np.ndarray, "brains count"]:
    """Return indices of each query's nearest pictures, best first; -1 where the lists ran out."""
    import faiss

    settings = None
    if isinstance(index, faiss.IndexIVF):
        settings = faiss.SearchParametersIVF()
        settings.nprobe = nprobe
    _, numbers = index.search(np.ascontiguousarray(queries), count, params=settings)
    return np.asarray(numbers)


def _project(
    tokens: Tokens, numbers: Int[np.ndarray, " some"], components: Components
) -> Float[np.ndarray, "some components"]:
    at_once = max(1, BLOCK_BYTES // (4 * components.shape[1]))
    parts = [
        unit_tokens(tokens[numbers[start : start + at_once]]) @ components.T
        for start in range(0, len(numbers), at_once)
    ]
    return np.concatenate(parts)
