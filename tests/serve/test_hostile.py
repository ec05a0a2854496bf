"""Hostile requests over raw sockets: each is refused and echoed nowhere; the service lives on.

Oracle: the statuses of the tables in hostile_bodies.py and hostile_heads.py, and the answer
to a correct request before all of them.
"""

import gc
import json
import logging
import socket
import time
from collections import Counter
from contextlib import ExitStack
from http.client import HTTPConnection
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from tests.local_service import TOKEN, serving
from tests.serve import hostile_bodies, hostile_heads
from tests.serve.logs import listening
from tests.serve.wire import CLOSED, MARK, NPY, NUM_VOXELS, TOUCHED, http, npy, saved

CASES = [*hostile_bodies.cases(), *hostile_heads.cases()]
PATIENCE = 20
GROWTH_MB = 50
SECRETS = [MARK.encode(), MARK.upper().encode(), TOKEN.encode(), b"root:", b"X-Injected"]
ANSWERS = [b'"embedding"', b'"matches"', b'"chosen"', b'"num_voxels"', b"NUMPY", b"HTTP/1.1 2"]


@pytest.fixture(scope="module")
def target(served):
    """Return the service's address, its answer to a correct request, and its log."""
    with listening() as kept:
        address = address_of(served.url)
        yield SimpleNamespace(address=address, right=correct(address), log=kept)


@pytest.fixture(scope="module")
def narrow(served, arguments, tmp_path_factory):
    """Return the address of the same models behind small limits."""
    limits = {"limits.body_seconds": 0.5, "limits.body_mib": 0.05, "limits.in_flight": 4}
    folder = tmp_path_factory.mktemp("narrow")
    with serving({**arguments, **limits}, folder, models=served.models) as service:
        yield address_of(service.url)


def address_of(url):
    parts = urlsplit(url)
    return parts.hostname, parts.port


def exchange(address, *parts, pause=0.0):
    """Send bytes in parts; return the whole answer until the service closes."""
    answer = b""
    with socket.create_connection(address, PATIENCE) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was sent
        try:
            while got := connection.recv(65536):
                answer += got
        except ConnectionResetError:
            pass
    return answer


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else CLOSED


def correct(address):
    """Return the answer to a correct request."""
    connection = HTTPConnection(*address, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": NPY}
    connection.request("POST", "/v1/embed", npy(), headers)
    reply = connection.getresponse()
    found = reply.status, reply.read()
    connection.close()
    return found


def check_refused(answer, statuses):
    assert status_of(answer) in statuses
    assert [word for word in ANSWERS + SECRETS if word.lower() in answer.lower()] == []
    assert answer.count(b"HTTP/1.1 ") <= 1


def test_cases_are_many_unique_and_marked():
    """Oracle: at least 100 cases, no name twice, the marker in nearly all."""
    assert max(Counter(case.name for case in CASES).values()) == 1
    assert len(CASES) >= 100
    assert sum(MARK.encode() in case.sent for case in CASES) > 0.95 * len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name[:60])
def test_hostile_request_is_refused(case, target):
    assert target.right[0] == 200
    check_refused(exchange(target.address, case.sent), case.statuses)
    assert correct(target.address) == target.right
    assert not TOUCHED.exists()


ODD = {
    "denormals": saved(np.full(NUM_VOXELS, 1e-42, np.float32)),
    "minus zero": saved(np.full(NUM_VOXELS, -0.0, np.float32)),
}


@pytest.mark.parametrize("name", ODD)
def test_numbers_that_are_nearly_zero_are_answered_as_zero(name, target):
    """Oracle: the answer to zeros."""
    answer = exchange(target.address, http("POST", "/v1/embed", ODD[name]))
    texts = (answer.split(b"\r\n\r\n", 1)[1], target.right[1])
    found, right = (np.array(json.loads(text)["embedding"]) for text in texts)
    np.testing.assert_allclose(found, right, atol=1e-5)


@pytest.mark.parametrize(
    "more",
    ["?url=http://127.0.0.1:9/", "?path=/etc/passwd", f"?{MARK}={MARK}", "?checkpoint=../x"],
)
def test_unknown_parameters_change_nothing(more, target):
    answer = exchange(target.address, http("POST", f"/v1/embed{more}", npy()))
    assert answer.split(b"\r\n\r\n", 1)[1] == target.right[1]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:22", "[::1]", "a/../b", "@x"])
def test_the_host_header_leads_nowhere(host, target):
    """Oracle: no answer repeats it; there are no redirects, and the page's links are relative."""
    for path in ("/", "/v1/model/", "/v1/model"):
        sent = http("GET", path).replace(b"127.0.0.1", f"{host}{MARK}".encode())
        answer = exchange(target.address, sent)
        assert status_of(answer) in (200, 400, 404)
        assert b"location:" not in answer.lower()
        assert host.encode() + MARK.encode() not in answer


def test_body_without_end_is_cut_off(target):
    """17 MiB in chunks; the limit is 16 MiB."""
    head = http("POST", "/v1/embed", b"", "Transfer-Encoding: chunked", length="")
    chunk = b"%x\r\n%b\r\n" % (2**20, bytes(2**20))
    check_refused(exchange(target.address, head, *[chunk] * 17, b"0\r\n\r\n"), (413, CLOSED))
    assert correct(target.address) == target.right


def test_smaller_limits_hold(narrow, target):
    """Announced and actual sizes of 60 kB; the limit is 51 kB."""
    zeros = saved(np.zeros(15_000, np.float32))
    for sent in (
        http("POST", "/v1/embed", zeros),
        http("POST", "/v1/embed", b"", length=str(len(zeros))),
        http("POST", "/v1/embed", b"", "Transfer-Encoding: chunked", length="")
        + b"%x\r\n%b\r\n0\r\n\r\n" % (len(zeros), zeros),
    ):
        check_refused(exchange(narrow, sent), (413, CLOSED))
        assert correct(narrow) == target.right


def test_slow_body_is_refused(narrow, target):
    """A byte every quarter of a second; the limit for the body is half a second."""
    begun = time.monotonic()
    head = http("POST", "/v1/embed", length=str(len(npy())))
    body = [bytes([byte]) for byte in npy()[:8]]
    check_refused(exchange(narrow, head, *body, pause=0.25), (408,))
    assert time.monotonic() - begun < 5
    assert correct(narrow) == target.right


def test_full_service_refuses_at_once(narrow, target):
    """Four requests wait for their bodies; oracle: the fifth gets 429 with Retry-After."""
    half = http("POST", "/v1/embed", npy())[:-50]
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(socket.create_connection(narrow, PATIENCE))
            connection.sendall(half)
        time.sleep(0.2)
        begun = time.monotonic()
        answer = exchange(narrow, http("POST", "/v1/embed", npy()))
        check_refused(answer, (429,))
        assert time.monotonic() - begun < 0.25
        assert b"retry-after: 1" in answer
        assert status_of(exchange(narrow, http("GET", "/healthz", token=None))) == 200
    time.sleep(0.2)
    assert correct(narrow) == target.right


def test_unfinished_headers_block_no_other_request(target):
    """Slowloris: 100 connections in mid-header. The server has no limit there; a proxy has one."""
    with ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(socket.create_connection(target.address, PATIENCE))
            connection.sendall(f"POST /v1/embed HTTP/1.1\r\nHost: {MARK}\r\nX-".encode())
        assert correct(target.address) == target.right


@pytest.mark.parametrize("length", [1, 40, 120, 300, -1])
def test_connection_closed_in_mid_request_does_no_harm(length, target):
    with socket.create_connection(target.address, PATIENCE) as connection:
        connection.sendall(http("POST", "/v1/embed", npy())[:length])
    assert correct(target.address) == target.right


def test_memory_does_not_grow(target):
    """Oracle: the process's memory after one round of all cases and after three more."""
    process = psutil.Process()

    def rounds(count):
        for _ in range(count):
            for case in CASES:
                exchange(target.address, case.sent)
        gc.collect()
        return process.memory_info().rss / 2**20

    before = rounds(1)
    after = rounds(3)
    assert after - before < GROWTH_MB
    assert correct(target.address) == target.right


def test_log_has_no_error_and_nothing_of_the_requests(target):
    """Runs last. Oracle: the log of the service, uvicorn and asyncio during all other tests."""
    assert len(target.log.records) > len(CASES)
    errors = [text for level, text in target.log.records if level >= logging.ERROR]
    assert errors == []
    log = "\n".join(text for _, text in target.log.records).encode()
    assert [word for word in SECRETS if word in log] == []
