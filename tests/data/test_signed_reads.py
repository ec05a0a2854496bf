"""Ranges by signed URLs, from a real S3 server. Oracle: the bytes that were written."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from fsspec.asyn import sync

from mindeye_dist.data.signed_reads import SignedReads
from mindeye_dist.data.store import Store

pytestmark = pytest.mark.s3
DATA = bytes(range(256)) * 40
PATH = "lab/signed/shard.tar"


@pytest.fixture
def reads(s3, fresh_clients, monkeypatch):
    """Return reads of a written object, how often each way was taken, and how to read."""
    store = Store("s3://lab/signed")
    store.write("shard.tar", DATA)
    files, signed, calls = store._files, SignedReads(store._files), []

    def counted(owner, name):
        method = getattr(owner, name)

        async def call(*given, **how):
            calls.append(name)
            return await method(*given, **how)

        monkeypatch.setattr(owner, name, call)

    counted(files, "_url")
    counted(files, "_cat_file")
    counted(signed, "_get")

    def fetch(start, end, path=PATH):
        calls.clear()
        return sync(files.loop, signed.fetch, path, start, end)

    return SimpleNamespace(fetch=fetch, calls=calls, known=signed._signed)


def spoil(reads):
    """Make the URL one that S3 refuses."""
    entry = reads.known[PATH]
    entry.url = entry.url.replace("X-Amz-Signature=", "X-Amz-Signature=0")


def test_an_object_is_signed_once_for_all_its_ranges(reads):
    assert reads.fetch(3, 1000) == DATA[3:1000]
    assert reads.calls == ["_url", "_get"]
    assert reads.fetch(5000, 5001) == DATA[5000:5001]
    assert reads.fetch(10_000, 99_999) == DATA[10_000:]  # short, as the object is
    assert reads.calls == ["_get"]


def test_a_url_that_no_longer_holds_is_signed_anew(reads):
    reads.fetch(0, 10)
    spoil(reads)
    assert reads.fetch(10, 20) == DATA[10:20]
    assert reads.calls == ["_get", "_cat_file"]
    assert reads.fetch(20, 30) == DATA[20:30]
    assert reads.calls == ["_url", "_get"]
    reads.known[PATH].until = 0.0  # it holds a while longer, and is not waited for
    assert reads.fetch(30, 40) == DATA[30:40]
    assert reads.calls == ["_url", "_get"]


def test_where_no_url_is_taken_the_ordinary_way_is(reads):
    reads.fetch(0, 10)
    spoil(reads)
    reads.known[PATH].answered = False
    for _ in range(2):
        assert reads.fetch(10, 20) == DATA[10:20]
    assert reads.calls == ["_cat_file"]


def test_what_is_missing_is_said_as_ever(reads):
    with pytest.raises(FileNotFoundError, match="key does not exist"):
        reads.fetch(0, 10, "lab/signed/other.tar")


class Busy(BaseHTTPRequestHandler):
    """Refuses everything for now."""

    def do_GET(self):
        """Answer 503."""
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


def test_a_busy_server_is_left_to_who_tries_again(reads):
    reads.fetch(0, 10)
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.handle_request).start()
        reads.known[PATH].url = f"http://127.0.0.1:{server.server_port}/lab?X-Amz-Signature=told"
        with pytest.raises(OSError, match=r"lab/signed/shard.tar: the server answers 503$"):
            reads.fetch(0, 10)
    assert reads.calls == ["_get"]


def test_no_error_tells_the_url(reads):
    """It opens the object to anybody for an hour."""
    reads.fetch(0, 10)
    reads.known[PATH].url = "http://127.0.0.1:9/lab/shard.tar?X-Amz-Signature=told"
    with pytest.raises(OSError, match=r"shard.tar: .*http://127.0.0.1:9/lab/shard.tar") as caught:
        reads.fetch(0, 10)
    assert "told" not in str(caught.value)
    assert caught.value.__suppress_context__
