"""Ranges by signed URLs, from a real S3 server. Oracle: the bytes that were written."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from fsspec.asyn import sync

from mindeye_dist.storage.ranges import Counts
from mindeye_dist.storage.signed_urls import SignedReads, without_queries
from mindeye_dist.storage.store import Store

pytestmark = pytest.mark.s3
DATA = bytes(range(256)) * 40
PATH = "lab/signed/shard.tar"


@pytest.fixture
def reads(s3, fresh_clients, monkeypatch):
    """Return reads of a written object, how often each way was taken, and how to read."""
    store = Store("s3://lab/signed")
    store.write("shard.tar", DATA)
    files, counts, calls = store._files, Counts(), []
    signed = SignedReads(files, counts)

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

    return SimpleNamespace(fetch=fetch, calls=calls, known=signed._signed, counts=counts)


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


def test_a_url_that_is_old_or_refused_is_signed_anew(reads):
    """One that is refused, after a while in which the ordinary way is taken."""
    reads.fetch(0, 10)
    reads.known[PATH].until = 0.0
    assert reads.fetch(10, 20) == DATA[10:20]
    assert reads.calls == ["_url", "_get"]
    spoil(reads)
    assert reads.fetch(20, 30) == DATA[20:30]
    assert reads.calls == ["_get", "_cat_file"]
    assert reads.counts.requests == 1  # of two, the other of which the reader counts
    assert reads.fetch(30, 40) == DATA[30:40]
    assert reads.calls == ["_cat_file"]
    reads.known[PATH].until = 0.0
    assert reads.fetch(40, 50) == DATA[40:50]
    assert reads.calls == ["_url", "_get"]


def test_where_a_url_was_never_answered_the_ordinary_way_is_taken(reads):
    for url in ("http://127.0.0.1:9/lab", None):
        reads.fetch(0, 10)
        reads.known[PATH].answered = False
        with busy_server() as busy:
            reads.known[PATH].url = url or busy
            assert reads.fetch(10, 20) == DATA[10:20]
        assert reads.calls == ["_get", "_cat_file"]
        assert not reads.known[PATH].refused
        for _ in range(3):
            reads.fetch(10, 20)
        assert reads.calls == ["_cat_file"]
        reads.known.clear()


@pytest.mark.parametrize("name", ["shard.tar", "a b+c#d%20é&.tar"])
def test_a_store_reads_so(s3, fresh_clients, monkeypatch, name):
    store = Store("s3://lab/signed")
    store.write(name, DATA)
    monkeypatch.delattr(type(store._files), "_cat_file")
    assert store.read_ranges([(name, 7, 99)]) == [DATA[7:99]]


def test_a_url_leads_where_requests_go(fresh_clients, monkeypatch):
    """To the bucket's region, and not to the endpoint of all of them; without a network."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    files = Store("s3://lab/signed")._files
    url = sync(files.loop, SignedReads(files, Counts())._sign, PATH).url
    assert url.startswith("https://lab.s3.eu-west-1.amazonaws.com/signed/shard.tar?X-Amz-Algorithm")
    assert "X-Amz-Expires=1200" in url


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


@contextmanager
def busy_server():
    """Run one and yield a URL of it."""
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        server.timeout = 10
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/lab?X-Amz-Signature=told"


def test_a_busy_server_is_left_to_who_tries_again(reads):
    reads.fetch(0, 10)
    with busy_server() as url:
        reads.known[PATH].url = url
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
    assert caught.value.__context__ is None
    said = (
        "Cannot connect to 'https://lab:443/a%20b.tar?X-Amz-Signature=told', url='http://l/?told'"
    )
    assert without_queries(said) == "Cannot connect to 'https://lab:443/a%20b.tar', url='http://l/'"
