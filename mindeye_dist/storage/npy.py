"""Arrays as .npy files in memory, without objects; what NumPy itself wrote is read unparsed.

NumPy's own reader evaluates the header as Python. That is most of the time of a small array, and in
threads that do it at once CPython 3.11 may fail ("AST constructor recursion depth mismatch").
"""

import io
import math
import re
import tokenize
from functools import lru_cache
from threading import Lock

import numpy as np

NOT_NPY = (ValueError, EOFError, OSError, MemoryError, SyntaxError, TypeError, tokenize.TokenError)
"""Exceptions that NumPy's reader raises on bytes that are not a plain array."""
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '([<>|](?:f[248]|[iu][1248]|b1))', 'fortran_order': False, "
    rb"'shape': \(([\d, ]*)\), \} *\n",
    re.DOTALL,
)
"""As NumPy writes it for numbers in C order: dtype and shape."""
MAGIC_BYTES, LONGEST_USUAL = 10, 256
"""Of a header: what says how long it is, and the most that is looked at here."""
_unusual = Lock()


def decode(data: bytes) -> np.ndarray:
    """Return the array of a .npy file, read-only where it needs no copy; objects are refused.

    Raises:
        Exception: one of NOT_NPY: the bytes are no plain array.
    """
    header = data[: MAGIC_BYTES + int.from_bytes(data[8:MAGIC_BYTES], "little")]
    known = _usual(header) if len(header) <= LONGEST_USUAL else None
    if known is None:
        with _unusual:
            array: np.ndarray = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        return array
    dtype, shape = known
    return np.frombuffer(data, dtype, math.prod(shape), len(header)).reshape(shape)


def describes(header: bytes, array: np.ndarray) -> bool:
    """Return whether an array's bytes behind this header are its .npy file, as NumPy writes it."""
    size = int.from_bytes(header[8:MAGIC_BYTES], "little")
    known = _usual(header) if len(header) == MAGIC_BYTES + size else None
    return known == (array.dtype, array.shape)


@lru_cache(maxsize=64)
def _usual(header: bytes) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Return dtype and shape by a header as NumPy writes it for numbers, of any other None."""
    found = HEADER.fullmatch(header)
    if found is None:
        return None
    shape = tuple(int(part) for part in found[2].split(b",") if part.strip())
    return np.dtype(found[1].decode()), shape


def is_finite(array: np.ndarray) -> bool:
    """Return whether no number of an array of floating point is NaN or infinite."""
    if array.dtype == np.float16 and array.size:
        # NumPy tests these one by one. As whole numbers, what is not finite is above the rest, of
        # either sign.
        highest = (int(array.view(kind).max()) for kind in (np.int16, np.uint16))
        return next(highest) < 0x7C00 and next(highest) < 0xFC00
    return bool(np.isfinite(array).all())


def encode(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
