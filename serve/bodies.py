"""Request bodies (.npy or JSON) -> voxels: finite float32, one row a brain, repeats averaged.

A `.npy` header is matched by a regular expression, never evaluated, and its shape must fit the
length of the body before anything is allocated. Messages name shapes and limits, never a value.
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
Row = Float[np.ndarray, " voxels"]
NPY_TYPES = ("application/x-npy", "application/octet-stream")
JSON = "application/json"
MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 1024
MAX_MISTAKES = 100
"""Mistakes of a JSON body up to which they are listed; to list 100,000 takes a second."""
HEADER = re.compile(
    rb"\{'descr': '([<|]?f[248])', 'fortran_order': (True|False), "
    rb"'shape': \((N,|N(?:, ?N){1,2},?)\),? ?\} *\n".replace(b"N", rb"[1-9]\d{0,8}")
)


@dataclass
class RefusedError(Exception):
    """A refused request.

    Attributes:
        status: HTTP status of the answer.
        message: reason, for the client.
        retry_after: delay before the client may repeat the request, in seconds; 0 names none.
    """

    status: int
    message: str
    retry_after: float = 0.0

    def __str__(self) -> str:
        return self.message


def read_brain(body: bytes, content_type: str, limits: Limits) -> Row:
    """Parse the voxels of one brain; several repeats are averaged.

    Raises:
        RefusedError: the body is malformed, too large or not finite.
    """
    if body_format(content_type) == JSON:
        voxels = _parse_json(VoxelsBody, body, limits, brains=1).voxels
        return _average_repeats(_to_array(voxels), limits)
    array = read_npy(body)
    if array.ndim not in (1, 2):
        raise RefusedError(
            422,
            f"voxels: got shape {array.shape}, expected (voxels,) or "
            "(repeats, voxels); /v1/batch takes many brains",
        )
    return _average_repeats(array, limits)


def read_brains(body: bytes, content_type: str, limits: Limits) -> list[Row]:
    """Parse the voxels of each brain of a batch; repeats are averaged.

    Raises:
        RefusedError: the body is malformed, too large or not finite, or has too many brains.
    """
    if body_format(content_type) == JSON:
        brains = [
            _to_array(rows) for rows in _parse_json(BatchBody, body, limits, limits.batch).voxels
        ]
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
    return [_average_numbered(number, brain, limits) for number, brain in enumerate(brains)]


def _average_numbered(number: int, brain: np.ndarray, limits: Limits) -> Row:
    try:
        return _average_repeats(brain, limits)
    except RefusedError as refused:
        raise RefusedError(refused.status, f"brain {number}: {refused.message}") from None


def body_format(content_type: str) -> str:
    """Return the format of a body, as the media type of .npy or of JSON.

    Raises:
        RefusedError: the content type is neither.
    """
    media_type = content_type.split(";")[0].strip().lower()
    if media_type == JSON:
        return JSON
    if media_type in NPY_TYPES:
        return NPY_TYPES[0]
    raise RefusedError(415, f"content type: expected {NPY_TYPES[0]} or {JSON}")


def read_npy(body: bytes) -> Float[np.ndarray, "..."]:
    """Return the float array of a `.npy` file as a read-only view of its bytes.

    Raises:
        RefusedError: the bytes are no `.npy`, the dtype is not float16, float32 or float64, or
            the length does not fit the shape.
    """
    if body[: len(MAGIC)] != MAGIC or len(body) < 12:
        raise RefusedError(422, "voxels: not a .npy file")
    major, minor = body[6], body[7]
    if major not in (1, 2) or minor:
        raise RefusedError(422, f"voxels: .npy of version {major}.{minor}, expected 1.0 or 2.0")
    size = 2 if major == 1 else 4
    length, first = int.from_bytes(body[8 : 8 + size], "little"), 8 + size
    if length > MAX_HEADER_BYTES:
        raise RefusedError(
            422, f"voxels: a .npy header of {length} bytes, expected at most {MAX_HEADER_BYTES}"
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


def _parse_json(model: type[Body], body: bytes, limits: Limits, brains: int) -> Body:
    most = int(limits.json_mib * 2**20)
    if len(body) > most:
        raise RefusedError(
            413, f"body: {len(body)} bytes of JSON, expected at most {most}; .npy is smaller"
        )
    # Many short lists would be slow to parse: a list of one number takes ten times its time.
    if body.count(b"[") > 1 + brains * (1 + MAX_REPEATS):
        raise RefusedError(
            422, f"voxels: expected at most {brains} brains of {MAX_REPEATS} repeats as JSON lists"
        )
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > MAX_MISTAKES:
            raise RefusedError(422, "body: other keys than the expected `voxels`") from None
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        # Only indices are repeated: keys are the client's own text.
        where = "".join(f"[{p}]" for p in problem["loc"] if isinstance(p, int))
        raise RefusedError(422, f"voxels{where}: {problem['msg']}"[:200]) from None
    except RecursionError:
        raise RefusedError(422, "body: JSON nested too deeply") from None


def _to_array(rows: list[float] | list[list[float]]) -> np.ndarray:
    if isinstance(rows[0], list) and len({len(row) for row in rows}) > 1:
        raise RefusedError(422, "voxels: repeats of different lengths")
    return np.array(rows, np.float64)


def _average_repeats(array: np.ndarray, limits: Limits) -> Row:
    if array.ndim == 2 and len(array) > MAX_REPEATS:
        raise RefusedError(422, f"voxels: got {len(array)} repeats, expected at most {MAX_REPEATS}")
    # float16 would overflow in sums. Bounds are checked before the cast to float32.
    wide = array.astype(np.float64)
    if not np.isfinite(wide).all():
        raise RefusedError(
            422, f"voxels: {np.count_nonzero(~np.isfinite(wide))} values are not finite"
        )
    if np.abs(wide).max() > limits.magnitude:
        raise RefusedError(
            422,
            "voxels: got larger magnitudes, expected z-scored responses up to "
            f"{limits.magnitude:g}",
        )
    return (wide.mean(axis=0) if wide.ndim == 2 else wide).astype(np.float32)
