"""Not a test: hostile requests, each as the bytes that go over the wire and what may come back."""

import gzip
import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.conftest import NUM_VOXELS
from tests.local_service import TOKEN

MARK = "marker7f3a"
"""Planted in every request; no answer and no log may repeat it."""
TOUCHED = Path(tempfile.gettempdir(), f"mindeye-hostile-{os.getpid()}")
"""What code in a request would make, if any were run."""
CLOSED = 0
"""In place of a status: the connection was closed without an answer."""
NPY, JSON = "application/x-npy", "application/json"
BRAIN = bytes(4 * NUM_VOXELS)
PROTECTED = (
    ("GET", "/v1/model"),
    ("GET", "/v1/samples"),
    ("GET", "/v1/samples/0"),
    ("GET", "/v1/samples/0/picture"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/embed"),
    ("POST", "/v1/retrieve"),
    ("POST", "/v1/reconstruct"),
    ("POST", "/v1/batch?task=embed"),
)


@dataclass(frozen=True)
class Case:
    """A hostile request, and the statuses that refuse it."""

    name: str
    sent: bytes
    statuses: tuple[int, ...]


class Code:
    """Runs a command where it is unpickled."""

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
    """Return a .npy file by hand: `header` as a whole, or the length that is told of it."""
    header = how.get(
        "header", f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    )
    text = header.encode("latin-1") + how.get("end", b"\n")
    length = how.get("length", len(text))
    told = struct.pack("<H" if version == 1 else "<I", length)
    return b"\x93NUMPY" + bytes((version, how.get("minor", 0))) + told + text + numbers


def saved(array, **how):
    """Return numpy's own .npy of an array."""
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
    """Return a case for each body."""
    return [
        Case(name, http("POST", path, body, kind=kind), statuses) for name, body in bodies.items()
    ]


def npy_cases():
    """Return files that are no voxels."""
    fields = "'descr': '<f4', 'fortran_order': False, 'shape': (24,)"
    code = f"__import__('os').system('touch {TOUCHED}')"
    ones = np.ones(NUM_VOXELS, np.float32)
    dtypes = (
        "<i4",
        "<u8",
        "<c8",
        "|b1",
        "<M8[s]",
        ">f4",
        ">f2",
        "<f16",
        "<g",
        "=f4",
        "|O",
        "|V4",
        "<U1",
    )
    shapes = {
        "giant": "(999999999, 999999999, 999999999)",
        "one beyond": f"({NUM_VOXELS + 1},)",
        "a million digits of zero": f"({'0' * 900},)",
        "negative": "(-24,)",
        "negative twice": "(-1, -24)",
        "overflowing": "(4294967296, 4294967296)",
        "overflowing to the right count": f"(18446744073709551616, {NUM_VOXELS})",
        "scalar": "()",
        "number": "24",
        "number in parentheses": "(24)",
        "leading zero": "(024,)",
        "only a comma": "(,)",
        "zero": "(0,)",
        "no voxels": "(2, 0)",
        "four dimensions": f"(1, 1, 1, {NUM_VOXELS})",
        "three dimensions": f"(1, 1, {NUM_VOXELS})",
        "nested": f"(({NUM_VOXELS},),)",
        "list": f"[{NUM_VOXELS}]",
        "float": "(24.0,)",
        "name": f"({MARK},)",
        "code": f"({code},)",
        "power": "(9**9**9,)",
    }
    headers = {
        "nested parentheses": "(" * 500 + ")" * 500,
        "nested parentheses of 60 kB": "(" * 60_000,
        "code as header": code,
        "empty header": "",
        "missing key": "{'descr': '<f4', 'fortran_order': False}",
        "key too many": f"{{{fields}, '{MARK}': 1}}",
        "bytes after the header": f"{{{fields}}}{MARK}",
        "NUL in the header": f"{{{fields}}}\0",
        "structured": npy("[('a', '<f4'), ('b', '<f4')]")[10:-97].decode(),
    }
    bodies = {f"dtype {name}": npy(f"'{name}'") for name in dtypes}
    bodies |= {f"shape: {name}": npy(shape=shape) for name, shape in shapes.items()}
    bodies |= {name: npy(header=header) for name, header in headers.items()}
    bodies |= {
        "object array": saved(np.array([Code()], object), allow_pickle=True),
        "structured array": saved(np.zeros(6, [("a", "<f4"), (MARK, "<f4", 3)])),
        "header of 4 GiB told": npy(version=2, length=2**32 - 1),
        "header of 64 KiB": npy(end=b" " * 60_000 + b"\n"),
        "header longer than the file": npy(numbers=b"", length=1000),
        "header length 0": npy(length=0),
        "version 3": npy(version=3),
        "version 9": npy(version=9),
        "version 1.7": npy(minor=7),
        "truncated numbers": npy()[:-1],
        "truncated header": npy()[:40],
        "only the magic": b"\x93NUMPY",
        "trailing bytes": npy() + MARK.encode(),
        "a second file behind": npy() + npy(),
        "no order": npy(order="None"),
        "33 repeats": saved(np.ones((33, NUM_VOXELS), np.float32)),
        "one voxel too many": saved(np.ones(NUM_VOXELS + 1, np.float32)),
        "one voxel": saved(np.ones(1, np.float32)),
        "a million voxels": saved(np.ones(10**6, np.float32)),
        "NaN": saved(ones * np.nan),
        "one NaN": saved(np.where(np.arange(NUM_VOXELS) == 7, np.nan, ones)),
        "Inf": saved(ones * np.inf),
        "-Inf": saved(ones * -np.inf),
        "Inf of half precision": saved((ones * np.inf).astype(np.float16)),
        "Inf less Inf over repeats": saved(np.stack([ones * np.inf, -ones * np.inf])),
        "huge": saved(ones * 3e38),
        "huge of double precision": saved(ones.astype(np.float64) * 1e308),
        "just too large": saved(ones * 1000.1),
    }
    return posted(bodies)


def other_formats():
    """Return files of other kinds that are sent as voxels, and kinds that are not taken."""
    zeros = bytes(50 * 2**20)
    bodies = {
        "pickle": pickle.dumps(Code()),
        "zip": zipped("a", MARK),
        "npz": zipped("voxels.npy", npy()),
        "zip bomb": zipped("voxels.npy", zeros),
        ".pth": zipped("archive/data.pkl", pickle.dumps(Code())),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(512),
        "safetensors header bomb": struct.pack("<Q", 2**63) + b'{"a":',
        "safetensors": struct.pack("<Q", 2) + b"{}",
        "gzip": gzip.compress(npy()),
        "gzip bomb": gzip.compress(zeros),
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "ELF": b"\x7fELF" + bytes(64),
        "nothing": b"",
        "one byte": b"\x93",
        "JSON as npy": b'{"voxels": [0.5]}',
    }
    packed = {"gzip": gzip.compress(zeros), "deflate": zlib.compress(zeros), "br": b"\x5b\xff\xff"}
    kinds = {
        "text/plain": npy(),
        "": npy(),
        "application/x-npz": npy(),
        "application/python-pickle": pickle.dumps(Code()),
        "application/x-hdf5": npy(),
        "application/x-www-form-urlencoded": f"url=http://127.0.0.1/{MARK}".encode(),
        "multipart/form-data; boundary=x": b'--x\r\nContent-Disposition: form-data; name="a"; '
        b'filename="../../a"\r\n\r\na\r\n--x--\r\n',
        "application/xml": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "application/yaml": b"!!python/object/apply:os.system ['true']",
        f"application/{MARK}": npy(),
        "application/json-seq": b'{"voxels": [0.5]}',
    }
    return [
        *posted(bodies),
        *(
            Case(
                f"Content-Encoding {name}",
                http("POST", "/v1/embed", body, f"Content-Encoding: {name}"),
                (415,),
            )
            for name, body in packed.items()
        ),
        Case(
            "Content-Encoding gzip of JSON",
            http("POST", "/v1/embed", gzip.compress(zeros), "Content-Encoding: gzip", kind=JSON),
            (415,),
        ),
        *(
            Case(f"type {kind or 'missing'}", http("POST", "/v1/embed", body, kind=kind), (415,))
            for kind, body in kinds.items()
        ),
    ]


def json_cases():
    """Return JSON that is no voxels."""
    good = json.dumps([0.5] * NUM_VOXELS)
    values = {
        "strings": json.dumps(["0.5"] * NUM_VOXELS),
        "marker": json.dumps([MARK] * NUM_VOXELS),
        "booleans": json.dumps([True] * NUM_VOXELS),
        "null": "null",
        "nulls": json.dumps([None] * NUM_VOXELS),
        "number": "0.5",
        "string": f'"{MARK}"',
        "object": f'{{"0": 0.5, "{MARK}": 1}}',
        "empty": "[]",
        "empty repeats": "[[], []]",
        "ragged repeats": "[[0.5, 0.5], [0.5]]",
        "repeats and numbers": "[0.5, [0.5]]",
        "three levels": f"[[{good}]]",
        "33 repeats": f"[{','.join([good] * 33)}]",
        "too few": "[0.5]",
        "1e400": f"[{','.join(['1e400'] * NUM_VOXELS)}]",
        "-1e400": f"[{','.join(['-1e400'] * NUM_VOXELS)}]",
        "1e300": f"[{','.join(['1e300'] * NUM_VOXELS)}]",
        "4,000 digits": f"[{','.join(['9' * 4000] * NUM_VOXELS)}]",
        "100,000 digits": f"[{'9' * 100_000}]",
        "NaN": f"[{','.join(['NaN'] * NUM_VOXELS)}]",
        "Infinity": f"[{','.join(['Infinity'] * NUM_VOXELS)}]",
        "-Infinity": f"[{','.join(['-Infinity'] * NUM_VOXELS)}]",
        "leading zeros": "[00.5]",
        "hexadecimal": "[0x10]",
        "trailing comma": "[0.5,]",
        "comment": "[0.5] /* */",
        "deep nesting": "[" * 100_000,
        "closed deep nesting": "[" * 5000 + "]" * 5000,
        "deep objects": '{"a":' * 100_000,
        "400,000 nulls": f"[{','.join(['null'] * 400_000)}]",
        "400,000 empty lists": f"[{','.join(['[]'] * 400_000)}]",
    }
    texts = {f"value {name}": f'{{"voxels": {value}}}' for name, value in values.items()}
    texts |= {
        "no JSON": MARK,
        "list": good,
        "scalar": "1",
        "no key": "{}",
        "another key": f'{{"{MARK}": {good}}}',
        "key too many": f'{{"voxels": {good}, "{MARK}": 1}}',
        "path beside": f'{{"voxels": {good}, "path": "/etc/passwd"}}',
        "lone surrogate": f'{{"voxels": {good}, "\\ud800": 1}}',
        "prototype": f'{{"voxels": {good}, "__proto__": {{}}}}',
        "two documents": f'{{"voxels": {good}}}{{"voxels": {good}}}',
        "truncated": f'{{"voxels": {good}',
        "150,000 keys": json.dumps(dict.fromkeys(range(150_000), 0)),
    }
    bodies = {f"JSON {name}": text.encode() for name, text in texts.items()}
    bodies |= {
        "JSON empty": b"",
        "JSON with a BOM": b"\xef\xbb\xbf" + f'{{"voxels": {good}}}'.encode(),
        "JSON in UTF-16": f'{{"voxels": {good}}}'.encode("utf-16"),
        "JSON of invalid UTF-8": b'{"voxels": [0.5], "\xff\xfe": 1}',
        "JSON with NUL": f'{{"voxels": {good}}}\0'.encode(),
        "npy as JSON": npy(),
    }
    large = {"JSON of 3 MiB": b'{"voxels": [' + b"0," * (3 * 2**19) + b"0]}"}
    brains = f'{{"voxels": [{",".join(["[0.5]"] * 257)}]}}'.encode()
    batch = {
        "batch of a flat list": f'{{"voxels": {good}}}'.encode(),
        "batch empty": b'{"voxels": []}',
    }
    npys = {"batch of one dimension": npy(), "batch of no brains": npy(shape=f"(0, {NUM_VOXELS})")}
    task = "/v1/batch?task=embed"
    return [
        *posted(bodies, kind=JSON),
        *posted(large, kind=JSON, statuses=(413,)),
        *posted(large, kind="application/JSON", statuses=(413,)),
        *posted({"batch of 257 brains": brains}, task, JSON, (413,)),
        *posted(batch, task, JSON),
        *posted(npys, task),
    ]


def target_cases():
    """Return paths, queries and methods that lead nowhere."""
    paths = {
        404: [
            "/../../etc/passwd",
            "/..%2f..%2fetc%2fpasswd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/page.js/../../tokens.py",
            "/.git/config",
            "/page/index.html",
            "//v1/model",
            "/v1/model/",
            "/v1/model%00",
            "/v1/model%0d%0aX-Injected:%20yes",
            "/v1/model%2f",
            "/v1//model",
            "/./v1/model",
            "/V1/MODEL",
            "/v1/model;a=b",
            f"/v1/{MARK}",
            "/docs",
            "/redoc",
            "/v1/samples/99",
            "/v1/samples/..%2f..%2fetc",
            "/v1/samples/0/picture/0",
            "/%ff%fe",
            "/%C0%AE%C0%AE/etc/passwd",
            f"http://169.254.169.254/{MARK}",
            f"http://127.0.0.1:22/{MARK}",
        ],
        422: [
            "/v1/samples/-1",
            "/v1/samples/1e9",
            "/v1/samples/1000000000",
            f"/v1/samples/{'9' * 5000}",
            "/v1/samples/0x1",
            "/v1/samples/NaN",
            "/v1/samples/%00",
            f"/v1/samples/{MARK}",
            "/v1/samples/-1/picture",
        ],
    }
    queries = {
        "retrieve": [
            "k=0",
            "k=-1",
            "k=1e9",
            "k=51",
            "k=13",
            f"k={'9' * 5000}",
            "k=",
            f"k={MARK}",
            "k=5&k=0",
            "k=5%00",
            "pictures=../../x",
            "pictures=http://127.0.0.1/",
            "pictures=file:///etc/passwd",
            "pictures=svg",
            "pictures=",
            f"pictures={MARK}",
            "pictures=none&pictures=x",
        ],
        "reconstruct": ["candidates=99999", "candidates=-1", "candidates=5", "candidates=1.5"],
        "batch": ["", "task=", f"task={MARK}", "task=card", "task=__init__", "task=embed&task=x"],
    }
    methods = ["TRACE", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "MKCOL", "PURGE"]
    return [
        *(
            Case(f"path {path[:40]}", http("GET", path), (status,))
            for status, all_of_it in paths.items()
            for path in all_of_it
        ),
        *(
            Case(f"query {route} {query[:30]}", http("POST", f"/v1/{route}?{query}", npy()), (422,))
            for route, all_of_it in queries.items()
            for query in all_of_it
        ),
        *(
            Case(f"method {method} {path}", http(method, path), (405,))
            for method in methods
            for path in ("/v1/model", "/")
        ),
        Case("POST where GET is meant", http("POST", "/v1/model", npy()), (405,)),
        Case("GET where POST is meant", http("GET", "/v1/embed"), (405,)),
        Case("CONNECT", http("CONNECT", "127.0.0.1:22"), (400, 404, 405, CLOSED)),
        Case("method of its own", http(MARK.upper(), "/v1/model"), (400,)),
        Case("method in small letters", http("get", "/v1/model"), (400,)),
        Case("path of 100 kB", http("GET", "/" + "a" * 100_000), (400, 431)),
        Case("path of 60 kB", http("GET", "/" + "a" * 60_000), (431,)),
        Case("query of 60 kB", http("GET", "/v1/model?" + "a" * 60_000), (431,)),
        Case("path not ASCII", http("GET", "/v1/\xff\xfe"), (400, 404)),
        Case("blank in the path", http("GET", "/v1/ model"), (400,)),
        Case("asterisk", http("OPTIONS", "*"), (400, 404, 405)),
    ]


def header_cases():
    """Return requests that are no HTTP, or that two servers would read differently."""
    one = npy()
    inner = http("GET", "/v1/model")
    chunked = "Transfer-Encoding: chunked"

    def chunks(raw, *more):
        return http("POST", "/v1/embed", raw, chunked, *more, length="")

    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(one), one)
    many = [f"X-{number}: {MARK}" for number in range(5000)]
    cases = {
        "1 GB told": (http("POST", "/v1/embed", length=str(10**9)), 413),
        "JSON of 3 MiB told": (http("POST", "/v1/embed", kind=JSON, length=str(3 * 2**20)), 413),
        "length of 20 digits": (http("POST", "/v1/embed", one, length="9" * 19), 413),
        "length of 5,000 digits": (http("POST", "/v1/embed", one, length="9" * 5000), 400),
        "negative length": (http("POST", "/v1/embed", one, length="-1"), 400),
        "length with a sign": (http("POST", "/v1/embed", one, length=f"+{len(one)}"), 400),
        "length in words": (http("POST", "/v1/embed", one, length=MARK), 400),
        "length of two numbers": (http("POST", "/v1/embed", one, length="5, 5"), 400),
        "hexadecimal length": (http("POST", "/v1/embed", one, length="0x10"), 400),
        "two lengths": (http("POST", "/v1/embed", one, "Content-Length: 5"), 400),
        "the same length twice": (
            http("POST", "/v1/embed", one, f"Content-Length: {len(one)}"),
            400,
        ),
        "length and chunks": (http("POST", "/v1/embed", whole, chunked), 400),
        "chunks and length": (chunks(whole, f"Content-Length: {len(one)}"), 400),
        "smuggled behind chunks": (http("POST", "/v1/embed", b"0\r\n\r\n" + inner, chunked), 400),
        "chunked not last": (chunks(whole).replace(b": chunked", b": chunked, identity"), 400),
        "chunked misspelt": (chunks(whole).replace(b": chunked", b": xchunked"), 400),
        "chunked twice": (chunks(whole, chunked), 400),
        "blank before the colon": (chunks(whole).replace(b"Encoding:", b"Encoding :"), 400),
        "folded header": (chunks(whole).replace(b"Encoding:", b"Encoding:\r\n "), 400),
        "chunk size in words": (chunks(b"%b\r\n" % MARK.encode()), 400),
        "negative chunk size": (chunks(b"-1\r\n"), 400),
        "chunk size beyond 64 bits": (chunks(b"F" * 17 + b"\r\n"), 400),
        "chunk longer than told": (chunks(b"2\r\nabcdef\r\n0\r\n\r\n"), 400),
        "chunk without an end of line": (chunks(b"3\rabc"), 400),
        "many headers": (http("GET", "/v1/model", b"", *many), 431),
        "header of 1 MB": (http("GET", "/v1/model", b"", f"X-Big: {MARK * 100_000}"), 431),
        "header of 1 MB, page": (http("GET", "/", b"", f"X-Big: {MARK * 100_000}"), 431),
        "header without a colon": (http("GET", "/v1/model", b"", MARK), 400),
        "header without a name": (http("GET", "/v1/model", b"", f": {MARK}"), 400),
        "NUL in a header": (http("GET", "/v1/model", b"", f"X-A: {MARK}\0"), 400),
        "bare CR in a header": (http("GET", "/v1/model", b"", "X-A: a\rX-Injected: b"), 400),
        "two hosts": (http("GET", "/v1/model", b"", f"Host: {MARK}"), 400),
        "two tokens": (http("GET", "/v1/model", b"", f"Authorization: Bearer {MARK}"), 400),
        "two types": (http("POST", "/v1/embed", one, f"Content-Type: {JSON}"), 400),
        "CRLF in the request id": (
            http("GET", "/v1/none", b"", f"X-Request-ID: {MARK}%0d%0aX-Injected: b"),
            404,
        ),
        "websocket": (
            http("GET", "/v1/model", b"", *WEBSOCKET).replace(b"Connection: close\r\n", b""),
            403,
        ),
        "websocket without a token": (
            http("GET", "/", b"", *WEBSOCKET, token=None).replace(b"Connection: close\r\n", b""),
            403,
        ),
        "HTTP/9.9": (http("GET", "/v1/model", version="HTTP/9.9"), 400),
        "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 400),
        "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(64), 400),
        "SSH": (b"SSH-2.0-OpenSSH_9.9\r\n", 400),
        "noise": (bytes(range(128, 256)) * 8, 400),
        "NULs": (bytes(4096), 400),
    }
    return [Case(name, sent, (status, CLOSED)) for name, (sent, status) in cases.items()]


WEBSOCKET = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def token_cases():
    """Return every protected route asked without a right token."""
    ways = {
        "missing": (None, ()),
        "empty": ("", ()),
        "wrong": (f"{MARK}-0123456789", ()),
        "shorter": (TOKEN[:-1], ()),
        "longer": (TOKEN + "x", ()),
        "in capitals": (TOKEN.upper(), ()),
        "not ASCII": ("\xfc\xff" + TOKEN, ()),
        "of 10 kB": ("x" * 10_000, ()),
        "Basic": (None, (f"Authorization: Basic {TOKEN}",)),
        "without a scheme": (None, (f"Authorization: {TOKEN}",)),
        "in a cookie": (None, (f"Cookie: token={TOKEN}",)),
        "in another header": (
            None,
            (f"X-Api-Key: {TOKEN}", f"Proxy-Authorization: Bearer {TOKEN}"),
        ),
    }
    body = {"POST": npy(), "GET": b""}
    return [
        *(
            Case(f"token {way}: {path}", http(verb, path, body[verb], *more, token=token), (401,))
            for way, (token, more) in ways.items()
            for verb, path in PROTECTED
        ),
        Case("token in the query", http("GET", f"/v1/model?token={TOKEN}", token=None), (401,)),
        Case("no route, no token", http("GET", f"/{MARK}", token=None), (401,)),
        Case("page's name by POST", http("POST", "/", npy(), token=None), (401,)),
        Case("route in disguise", http("GET", "//healthz/../v1/model", token=None), (401,)),
        Case(
            "1 GB told, no token",
            http("POST", "/v1/embed", length="1000000000", token=None),
            (401,),
        ),
    ]


def all_cases():
    """Return every case; their names are unique."""
    return [
        *npy_cases(),
        *other_formats(),
        *json_cases(),
        *target_cases(),
        *header_cases(),
        *token_cases(),
    ]
