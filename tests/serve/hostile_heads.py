"""Not a test: cases of targets, headers and tokens that must be refused."""

import os

from tests.local_service import TOKEN
from tests.serve.wire import CLOSED, JSON, MARK, Case, http, npy

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


WEBSOCKET = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
UPGRADE = http("GET", "/v1/model", b"", *WEBSOCKET).replace(b"Connection: close\r\n", b"")


PATHS = {
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
QUERIES = {
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
METHODS = ["TRACE", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "MKCOL", "PURGE"]


NO_HTTP = {
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(64),
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "noise": bytes(range(128, 256)) * 8,
    "NULs": bytes(4096),
}


def target_cases():
    """Return cases of unknown paths, invalid queries and wrong methods."""
    return [
        *(
            Case(f"path {path[:40]}", http("GET", path), (status,))
            for status, paths in PATHS.items()
            for path in paths
        ),
        *(
            Case(f"query {route} {query[:30]}", http("POST", f"/v1/{route}?{query}", npy()), (422,))
            for route, queries in QUERIES.items()
            for query in queries
        ),
        *(
            Case(f"method {method} {path}", http(method, path), (405,))
            for method in METHODS
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
    """Return cases that are no HTTP, or that two servers could parse differently."""
    one = npy()
    inner = http("GET", "/v1/model")
    chunked = "Transfer-Encoding: chunked"

    def chunks(raw, *more):
        return http("POST", "/v1/embed", raw, chunked, *more, length="")

    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(one), one)
    many = [f"X-{number}: {MARK}" for number in range(5000)]
    cases = {
        "1 GB announced": (http("POST", "/v1/embed", length=str(10**9)), 413),
        "JSON of 3 MiB announced": (
            http("POST", "/v1/embed", kind=JSON, length=str(3 * 2**20)),
            413,
        ),
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
        "chunk longer than its size": (chunks(b"2\r\nabcdef\r\n0\r\n\r\n"), 400),
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
        "websocket": (UPGRADE, 403),
        "websocket without a token": (UPGRADE.replace(b"Authorization", b"X-None"), 403),
        "HTTP/9.9": (http("GET", "/v1/model", version="HTTP/9.9"), 400),
        **{name: (sent, 400) for name, sent in NO_HTTP.items()},
    }
    return [Case(name, sent, (status, CLOSED)) for name, (sent, status) in cases.items()]


def token_cases():
    """Return cases of every protected route without a valid token."""
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
            "1 GB announced, no token",
            http("POST", "/v1/embed", length="1000000000", token=None),
            (401,),
        ),
    ]


def cases():
    """Return all of these cases."""
    return [*target_cases(), *header_cases(), *token_cases()]
