"""Bodies of requests -> voxels: strict, small, and never code.

A `.npy` header is matched, not evaluated, and its shape is compared with the bytes there are before
anything is allocated. What comes out is finite float32, one row a brain, repeats averaged. Messages
tell shapes and limits, never a value.
"""

import math
import re
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError

from serve.schema import MAX_REPEATS, BatchBody, VoxelsBody
from serve.settings import Limits

Body = TypeVar("Body", VoxelsBody, BatchBody)
NPY = ("application/x-npy", "application/octet-stream")
JSON = "application/json"
MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 1024
MOST_MISTAKES = 100
"""Of a JSON body that are told apart: with a hundred thousand unknown keys that takes a second."""
HEADER = re.compile(
    rb"\{'descr': '([<|]?f[248])', 'fortran_order': (True|False), "
    rb"'shape': \((N,|N(?:, ?N){1,2},?)\),? ?\} *\n".replace(b"N", rb"[1-9]\d{0,8}")
)


@dataclass
class RefusedError(Exception):
    """A request that is not answered: an HTTP status, and why."""

    status: int
    message: str
    retry_after: float = 0.0

    def __str__(self) -> str:
        return self.message


def one_brain(body: bytes, content_type: str, limits: Limits) -> Float[np.ndarray, " voxels"]:
    """Return the voxels of one brain, the mean of its repeats where there are several.

    Raises:
        RefusedError: they are not what they should be.
    """
    if kind(content_type) == JSON:
        voxels = _json(VoxelsBody, body, limits, brains=1).voxels
        return _mean(_array(voxels), limits)
    array = read_npy(body)
    if array.ndim not in (1, 2):
        raise RefusedError(
            422,
            f"voxels: got shape {array.shape}, expected (voxels,) or "
            "(repeats, voxels); /v1/batch takes many brains",
        )
    return _mean(array, limits)


def many_brains(
    body: bytes, content_type: str, limits: Limits
) -> list[Float[np.ndarray, " voxels"]]:
    """Return the voxels of each brain of a batch, repeats averaged.

    Raises:
        RefusedError: they are not what they should be, or too many.
    """
    if kind(content_type) == JSON:
        brains = [_array(one) for one in _json(BatchBody, body, limits, limits.batch).voxels]
    else:
        array = read_npy(body)
        if array.ndim not in (2, 3):
            raise RefusedError(
                422,
                f"voxels: got shape {array.shape}, expected (brains, voxels) "
                "or (brains, repeats, voxels)",
            )
        brains = list(array)
    if len(brains) > limits.batch:
        raise RefusedError(
            413, f"voxels: got {len(brains)} brains, expected at most {limits.batch}"
        )
    return [_numbered(number, brain, limits) for number, brain in enumerate(brains)]


def _numbered(number: int, brain: np.ndarray, limits: Limits) -> Float[np.ndarray, " voxels"]:
    try:
        return _mean(brain, limits)
    except RefusedError as refused:
        raise RefusedError(refused.status, f"brain {number}: {refused.message}") from None


def kind(content_type: str) -> str:
    """Return the kind of a body.

    Raises:
        RefusedError: it is neither .npy nor JSON.
    """
    named = content_type.split(";")[0].strip().lower()
    if named == JSON:
        return JSON
    if named in NPY:
        return NPY[0]
    raise RefusedError(415, f"content type: expected {NPY[0]} or {JSON}")


def read_npy(body: bytes) -> Float[np.ndarray, "..."]:
    """Return the float array of a `.npy` file, without copying its numbers.

    Raises:
        RefusedError: it is no such file, of another dtype, or of another length than its shape.
    """
    if body[: len(MAGIC)] != MAGIC or len(body) < 12:
        raise RefusedError(422, "voxels: not a .npy file")
    major, minor = body[6], body[7]
    if major not in (1, 2) or minor:
        raise RefusedError(422, f"voxels: .npy of version {major}.{minor}, expected 1.0 or 2.0")
    size = 2 if major == 1 else 4
    length, first = int.from_bytes(body[8 : 8 + size], "little"), 8 + size
    if length > LONGEST_HEADER:
        raise RefusedError(
            422, f"voxels: a .npy header of {length} bytes, expected at most {LONGEST_HEADER}"
        )
    header = HEADER.fullmatch(body[first : first + length])
    if header is None:
        raise RefusedError(
            422,
            "voxels: the .npy header is not that of a little-endian float "
            "array of 1 to 3 dimensions, none of them empty",
        )
    dtype = np.dtype(header[1].decode().replace("|", "<"))
    shape = tuple(int(part) for part in header[3].split(b",") if part.strip())
    left = len(body) - first - length
    if math.prod(shape) * dtype.itemsize != left:
        raise RefusedError(
            422, f"voxels: a .npy of shape {shape} and dtype {dtype} with {left} bytes of numbers"
        )
    order = "F" if header[2] == b"True" else "C"
    numbers = np.frombuffer(body, dtype, offset=first + length)
    return numbers.reshape(shape, order=order)  # type: ignore[call-overload]


def _json(model: type[Body], body: bytes, limits: Limits, brains: int) -> Body:
    most = int(limits.json_mib * 2**20)
    if len(body) > most:
        raise RefusedError(
            413, f"body: {len(body)} bytes of JSON, expected at most {most}; .npy is smaller"
        )
    # A list of one number costs ten times a number's time, if only to be read.
    if body.count(b"[") > 1 + brains * (1 + MAX_REPEATS):
        raise RefusedError(
            422, f"voxels: expected at most {brains} brains of {MAX_REPEATS} repeats as JSON lists"
        )
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > MOST_MISTAKES:
            raise RefusedError(422, "body: other keys than the ones expected") from None
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        # Keys of the request are the sender's own words: only ours and numbers are repeated.
        where = "".join(f"[{p}]" for p in problem["loc"] if isinstance(p, int))
        raise RefusedError(422, f"voxels{where}: {problem['msg']}"[:200]) from None
    except RecursionError:
        raise RefusedError(422, "body: JSON nested too deeply") from None


def _array(rows: list[float] | list[list[float]]) -> np.ndarray:
    if isinstance(rows[0], list) and len({len(row) for row in rows}) > 1:
        raise RefusedError(422, "voxels: repeats of different lengths")
    return np.array(rows, np.float64)


def _mean(array: np.ndarray, limits: Limits) -> Float[np.ndarray, " voxels"]:
    if array.ndim == 2 and len(array) > MAX_REPEATS:
        raise RefusedError(422, f"voxels: got {len(array)} repeats, expected at most {MAX_REPEATS}")
    # Half precision would overflow in sums; what is out of bounds is caught before it is cast.
    wide = array.astype(np.float64)
    if not np.isfinite(wide).all():
        raise RefusedError(
            422, f"voxels: {np.count_nonzero(~np.isfinite(wide))} values are not finite"
        )
    if np.abs(wide).max() > limits.magnitude:
        raise RefusedError(
            422,
            f"voxels: z-scored responses of magnitude up to {limits.magnitude:g} "
            "expected, got larger ones",
        )
    return (wide.mean(axis=0) if wide.ndim == 2 else wide).astype(np.float32)
