"""Not a test: valid and invalid requests as bytes on the wire."""

import io
import os
import struct
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.conftest import NUM_VOXELS
from tests.local_service import TOKEN

MARK = "marker7f3a"
"""Marker in every request; no answer and no log may repeat it."""
TOUCHED = Path(tempfile.gettempdir(), f"mindeye-hostile-{os.getpid()}")
"""File that a request's code would make, if it were run."""
CLOSED = 0
"""Stands for a status: the connection was closed without an answer."""
NPY, JSON = "application/x-npy", "application/json"
BRAIN = bytes(4 * NUM_VOXELS)


@dataclass(frozen=True)
class Case:
    """A hostile request, and the accepted statuses of its refusal."""

    name: str
    sent: bytes
    statuses: tuple[int, ...]


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {TOUCHED}",)


def http(method, target, body=b"", *more, kind=NPY, token=TOKEN, length=None, version="HTTP/1.1"):
    """Return a request as bytes; `more` are header lines, length "" leaves out Content-Length."""
    lines = [f"{method} {target} {version}", "Host: 127.0.0.1", f"X-Mark: {MARK}"]
    lines += [f"Authorization: Bearer {token}"] if token is not None else []
    lines += [f"Content-Type: {kind}"] if kind and method == "POST" else []
    size = str(len(body)) if length is None else length
    lines += [f"Content-Length: {size}"] if size and method == "POST" else []
    lines += [*more, "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def npy(descr="'<f4'", shape=f"({NUM_VOXELS},)", numbers=BRAIN, *, version=1, order="False", **how):
    """Return a hand-made .npy file; `how` may give a whole `header`, its `end`, or its `length`."""
    header = how.get(
        "header", f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    )
    text = header.encode("latin-1") + how.get("end", b"\n")
    length = how.get("length", len(text))
    announced = struct.pack("<H" if version == 1 else "<I", length)
    return b"\x93NUMPY" + bytes((version, how.get("minor", 0))) + announced + text + numbers


def saved(array, **how):
    """Return an array as .npy, by np.save."""
    buffer = io.BytesIO()
    np.save(buffer, array, **how)
    return buffer.getvalue()


def zipped(name, content):
    """Return a zip with one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def posted(bodies, path="/v1/embed", kind=NPY, statuses=(422,)):
    """Return a case for each body, sent by POST."""
    return [
        Case(name, http("POST", path, body, kind=kind), statuses) for name, body in bodies.items()
    ]
