"""Local folders and a real S3 server behave alike."""

import os

import numpy as np
import pytest

import mindeye_dist.storage.store
from jobs.worker import worker
from mindeye_dist.errors import DataError
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override


def check(store):
    store.write("a/b.bin", bytes(range(100)))
    assert store.exists("a/b.bin")
    assert not store.exists("a/c.bin")
    assert store.read("a/b.bin") == bytes(range(100))
    assert store.read_ranges([("a/b.bin", 10, 12), ("a/b.bin", 98, 100)]) == [b"\x0a\x0b", b"bc"]
    store.write("a/b.bin", b"replaced")
    assert store.read("a/b.bin") == b"replaced"
    with pytest.raises(DataError, match=r"a/c\.bin: cannot be read"):
        store.read("a/c.bin")
    with pytest.raises(DataError, match=r"a/c\.bin: byte 0: cannot be read"):
        store.read_ranges([("a/b.bin", 0, 1), ("a/c.bin", 0, 1)])
    assert store.read_ranges([]) == []
    assert store.size("a/b.bin") == 8
    with pytest.raises(DataError, match=r"a/c\.bin: cannot be read"):
        store.size("a/c.bin")
    assert (store.names("a"), store.names("b")) == (["b.bin"], [])
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert not store.exists("a/b.bin")
    store.write("a/b.bin", b"")


def check_files(store, source, monkeypatch):
    """Oracle: the source's own bytes."""
    source.write_bytes(bytes(range(256)))
    store.upload(source, "folder/of/uploaded.bin")
    store.upload(source, "folder/b.bin")
    assert store.read("folder/of/uploaded.bin") == source.read_bytes()
    with monkeypatch.context() as small:
        small.setattr(mindeye_dist.storage.store, "PIECE", 100)
        small.setattr(mindeye_dist.storage.store, "PIECES", 2)
        store.copy("folder/b.bin", source.with_name("copied.bin"))
    assert source.with_name("copied.bin").read_bytes() == source.read_bytes()
    store.delete_folder("folder")
    store.delete_folder("folder")
    assert not store.exists("folder/of/uploaded.bin")
    assert not store.exists("folder/b.bin")
    with pytest.raises(DataError, match=r"a/c\.bin: cannot be written"):
        store.upload(source.with_name("nothing"), "a/c.bin")


def check_ranges(store):
    """Oracle: the bytes that were written, at every place and length."""
    data = bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8))
    store.write("long.bin", data)
    with store.open("long.bin") as file:
        assert file.seek(0, os.SEEK_END) == 5000
        for start, length in (
            (0, 1),
            (1, 10),
            (4990, 100),
            (5000, 1),
            (9000, 1),
            (7, 3000),
            (2, 1),
        ):
            file.seek(start)
            assert file.read(length) == data[start : start + length]
            assert file.tell() == max(min(start + length, 5000), start)
    store.delete("long.bin")


def test_local_folder(tmp_path, monkeypatch):
    check(Store(str(tmp_path)))
    check_files(Store(str(tmp_path)), tmp_path / "source", monkeypatch)
    check_ranges(Store(str(tmp_path)))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.bin"], "no partial file stays"


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/a\.bin: cannot be written"):
        Store(str(tmp_path / "file")).write("a.bin", b"")


def test_unknown_scheme():
    with pytest.raises(DataError, match="ftpx://host"):
        Store("ftpx://host/path")


@pytest.mark.s3
def test_s3(s3, tmp_path, monkeypatch):
    check(Store("s3://lab/store"))
    check_files(Store("s3://lab/store"), tmp_path / "source", monkeypatch)
    check_ranges(Store("s3://lab/store"))


@pytest.mark.s3
def test_training_from_s3_has_equal_losses(s3, tiny_config, write_subject):
    """Oracle: the same shards in a local folder."""
    write_subject("s3://lab/shards")
    remote = override(
        tiny_config, {"data.url": "s3://lab/shards", "run_dir": f"{tiny_config.run_dir}-s3"}
    )
    curves = []
    for config in (tiny_config, remote):
        worker(config)
        rows = read_journal(config.run_dir)
        curves.append([row["train/total"] for row in rows if "train/total" in row])
    assert curves[0] == curves[1]


@pytest.mark.s3
def test_wrong_credentials_are_one_clear_error(s3, fresh_clients, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(DataError, match=r"s3://lab/other-credentials/manifest.json"):
        Store("s3://lab/other-credentials").read("manifest.json")


@pytest.mark.s3
def test_unreachable_endpoint(fresh_clients, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(
        DataError, match=r"s3://lab/nowhere/manifest.json: cannot be read.*127.0.0.1:9"
    ):
        Store("s3://lab/nowhere").read("manifest.json")
