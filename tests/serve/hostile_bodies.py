"""Not a test: cases of request bodies that must be refused."""

import gzip
import json
import pickle
import struct
import zlib

import numpy as np

from tests.serve.wire import (
    JSON,
    MARK,
    NUM_VOXELS,
    TOUCHED,
    Case,
    Code,
    http,
    npy,
    posted,
    saved,
    zipped,
)

FIELDS = "'descr': '<f4', 'fortran_order': False, 'shape': (24,)"
CODE = f"__import__('os').system('touch {TOUCHED}')"
DTYPES = (
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
SHAPES = {
    "giant": "(999999999, 999999999, 999999999)",
    "one beyond": f"({NUM_VOXELS + 1},)",
    "900 digits of zero": f"({'0' * 900},)",
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
    "CODE": f"({CODE},)",
    "power": "(9**9**9,)",
}
NPY_HEADERS = {
    "nested parentheses": "(" * 500 + ")" * 500,
    "nested parentheses of 60 kB": "(" * 60_000,
    "CODE as header": CODE,
    "empty header": "",
    "missing key": "{'descr': '<f4', 'fortran_order': False}",
    "key too many": f"{{{FIELDS}, '{MARK}': 1}}",
    "bytes after the header": f"{{{FIELDS}}}{MARK}",
    "NUL in the header": f"{{{FIELDS}}}\0",
    "structured": npy("[('a', '<f4'), ('b', '<f4')]")[10:-97].decode(),
}


def npy_cases():
    """Return cases of malformed or unsuitable .npy bodies."""
    ones = np.ones(NUM_VOXELS, np.float32)
    bodies = {f"dtype {name}": npy(f"'{name}'") for name in DTYPES}
    bodies |= {f"shape: {name}": npy(shape=shape) for name, shape in SHAPES.items()}
    bodies |= {name: npy(header=header) for name, header in NPY_HEADERS.items()}
    bodies |= {
        "object array": saved(np.array([Code()], object), allow_pickle=True),
        "structured array": saved(np.zeros(6, [("a", "<f4"), (MARK, "<f4", 3)])),
        "header of 4 GiB announced": npy(version=2, length=2**32 - 1),
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


ZEROS = bytes(50 * 2**20)
FILES = {
    "pickle": pickle.dumps(Code()),
    "zip": zipped("a", MARK),
    "npz": zipped("voxels.npy", npy()),
    "zip bomb": zipped("voxels.npy", ZEROS),
    ".pth": zipped("archive/data.pkl", pickle.dumps(Code())),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(512),
    "safetensors header bomb": struct.pack("<Q", 2**63) + b'{"a":',
    "safetensors": struct.pack("<Q", 2) + b"{}",
    "gzip": gzip.compress(npy()),
    "gzip bomb": gzip.compress(ZEROS),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "ELF": b"\x7fELF" + bytes(64),
    "nothing": b"",
    "one byte": b"\x93",
    "JSON as npy": b'{"voxels": [0.5]}',
}
PACKED = {"gzip": gzip.compress(ZEROS), "deflate": zlib.compress(ZEROS), "br": b"\x5b\xff\xff"}
KINDS = {
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


def other_formats():
    """Return cases of other file formats sent as voxels, and of content types not accepted."""
    return [
        *posted(FILES),
        *(
            Case(
                f"Content-Encoding {name}",
                http("POST", "/v1/embed", body, f"Content-Encoding: {name}"),
                (415,),
            )
            for name, body in PACKED.items()
        ),
        Case(
            "Content-Encoding gzip of JSON",
            http("POST", "/v1/embed", gzip.compress(ZEROS), "Content-Encoding: gzip", kind=JSON),
            (415,),
        ),
        *(
            Case(f"type {kind or 'missing'}", http("POST", "/v1/embed", body, kind=kind), (415,))
            for kind, body in KINDS.items()
        ),
    ]


GOOD = json.dumps([0.5] * NUM_VOXELS)
VALUES = {
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
    "three levels": f"[[{GOOD}]]",
    "33 repeats": f"[{','.join([GOOD] * 33)}]",
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
TEXTS = {
    "no JSON": MARK,
    "list": GOOD,
    "scalar": "1",
    "no key": "{}",
    "another key": f'{{"{MARK}": {GOOD}}}',
    "key too many": f'{{"voxels": {GOOD}, "{MARK}": 1}}',
    "path as another key": f'{{"voxels": {GOOD}, "path": "/etc/passwd"}}',
    "lone surrogate": f'{{"voxels": {GOOD}, "\\ud800": 1}}',
    "prototype": f'{{"voxels": {GOOD}, "__proto__": {{}}}}',
    "two documents": f'{{"voxels": {GOOD}}}{{"voxels": {GOOD}}}',
    "truncated": f'{{"voxels": {GOOD}',
    "150,000 keys": json.dumps(dict.fromkeys(range(150_000), 0)),
}


THREE_MIB = b'{"voxels": [' + b"0," * (3 * 2**19) + b"0]}"


def json_cases():
    """Return cases of malformed or unsuitable JSON bodies."""
    texts = TEXTS | {f"value {name}": f'{{"voxels": {value}}}' for name, value in VALUES.items()}
    bodies = {f"JSON {name}": text.encode() for name, text in texts.items()}
    bodies |= {
        "JSON empty": b"",
        "JSON with a BOM": b"\xef\xbb\xbf" + f'{{"voxels": {GOOD}}}'.encode(),
        "JSON in UTF-16": f'{{"voxels": {GOOD}}}'.encode("utf-16"),
        "JSON of invalid UTF-8": b'{"voxels": [0.5], "\xff\xfe": 1}',
        "JSON with NUL": f'{{"voxels": {GOOD}}}\0'.encode(),
        "npy as JSON": npy(),
    }
    brains = f'{{"voxels": [{",".join(["[0.5]"] * 257)}]}}'.encode()
    batch = {
        "batch of a flat list": f'{{"voxels": {GOOD}}}'.encode(),
        "batch empty": b'{"voxels": []}',
    }
    npys = {"batch of one dimension": npy(), "batch of no brains": npy(shape=f"(0, {NUM_VOXELS})")}
    task = "/v1/batch?task=embed"
    return [
        *posted(bodies, kind=JSON),
        *posted({"JSON of 3 MiB": THREE_MIB}, kind=JSON, statuses=(413,)),
        *posted({"JSON of 3 MiB, in capitals": THREE_MIB}, kind=JSON.upper(), statuses=(413,)),
        *posted({"batch of 257 brains": brains}, task, JSON, (413,)),
        *posted(batch, task, JSON),
        *posted(npys, task),
    ]


def cases():
    """Return all of these cases."""
    return [*npy_cases(), *other_formats(), *json_cases()]
