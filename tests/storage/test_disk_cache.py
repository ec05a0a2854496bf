"""The disk cache. Oracles: the bytes that were put, and the order of use."""

import os

import pytest

from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.storage.disk_cache import DiskCache
from mindeye_dist.storage.store import Store


def used(cache, name, turn):
    """Say when a file was last used."""
    os.utime(cache._folder / f"{name}-100", ns=(turn, turn))


def test_the_least_recently_used_goes_first(tmp_path):
    cache = DiskCache(str(tmp_path / "cache"), 1000)
    for n in range(10):
        cache.put(f"m{n}", 100, bytes([n]) * 100)
        used(cache, f"m{n}", n)
    used(cache, "m0", 99)  # as reading it would
    cache.put("m10", 100, b"x" * 100)
    kept = {path.name for path in (tmp_path / "cache").iterdir()}
    assert kept == {f"m{n}-100" for n in (0, 3, 4, 5, 6, 7, 8, 9, 10)}
    assert cache.get("m0", 100) == bytes(100)
    assert cache.get("m1", 100) is None
    again = DiskCache(str(tmp_path / "cache"), 1000)
    assert again.get("m10", 100) == b"x" * 100
    again.put("huge", 1001, bytes(1001))
    assert again.get("huge", 1001) is None


@pytest.mark.s3
def test_a_second_epoch_is_read_from_the_disk_and_damage_is_not(s3, write_subject, tmp_path):
    write_subject("s3://lab/cached")
    cache = DiskCache(str(tmp_path / "cache"), 2**30)
    config = DataConfig(url="s3://lab/cached", cache_gib=0.0)

    def everything(cache):
        store = Store(config.url, cache)
        dataset = Dataset(store, read_manifest(store), config, "train")
        before = store.counts.requests
        rows = [row.tobytes() for row in dataset.voxels(range(len(dataset)))]
        return rows, store.counts.requests - before

    expected, _ = everything(None)
    first, requests = everything(cache)
    again, fewer = everything(cache)
    assert expected == first == again
    assert requests > fewer == 0
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    damaged, requests = everything(cache)
    assert damaged == expected
    assert requests > 0


def test_processes_that_share_a_folder_keep_to_one_limit(tmp_path):
    """Each has two halves of the limit to write, of which the other knows nothing."""
    folder = str(tmp_path / "cache")
    one, other = DiskCache(folder, 10_000), DiskCache(folder, 10_000)
    for n in range(100):
        one.put(f"one{n}", 100, bytes(100))
        other.put(f"other{n}", 100, bytes(100))
        size = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
        assert size <= 10_000 * (1 + 2 / 64) + 200


def test_what_a_kill_left_is_counted_and_goes(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / ".1-1").write_bytes(bytes(900))
    cache = DiskCache(str(folder), 1000)
    cache.put("m", 100, bytes(100))
    cache.put("n", 100, bytes(100))
    assert {path.name for path in folder.iterdir()} == {"m-100", "n-100"}


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"data.disk_cache: .*file/cache cannot be used"):
        DiskCache(str(tmp_path / "file" / "cache"), 1000)
