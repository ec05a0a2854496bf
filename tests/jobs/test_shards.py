"""Indexing shards as they were published: what is found, what is fetched, what is refused."""

import io
import re
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aiobotocore.httpsession import AIOHTTPSession

from jobs.options.shards import Index
from jobs.shards import main
from jobs.work import shards as work
from jobs.work.shards import index_shards
from jobs.worker import worker
from mindeye_dist.data.manifest import Targets, read_manifest, write_manifest
from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import DISTINCT, VOXELS, read_index
from mindeye_dist.data.writer import write_shards
from mindeye_dist.errors import DataError
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override
from tests.published_shards import FRACTIONAL_TIME, INTEGER_TIME, pack, sample, write_published

COUNTS = {"train": [3, 3, 2], "val": [2], "test": [3, 1]}
LONGER = {"train": [6, 5], "val": [4], "test": [5]}
FULL_SIZE = {"num_voxels": 15_724, "wholebrain": (81, 104, 83)}
SHARD = "train/train_subj01_1.tar"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


@pytest.fixture
def published(store):
    return write_published(store, "subj01", COUNTS)


def files(store):
    folder = Path(store.url)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def all_samples(store, subject="subj01"):
    shards = read_manifest(store).subject(subject).splits.values()
    return [s for split in shards for shard in split for s in read_index(store, shard)]


@pytest.mark.parametrize("mtime", [INTEGER_TIME, FRACTIONAL_TIME])
def test_index_finds_every_member(store, mtime):
    """Oracle: the bytes that were written."""
    published = write_published(store, "subj01", COUNTS, mtime=mtime)
    before = files(store)
    manifest = index_shards(Index(url=store.url))
    subject = manifest.subject("subj01")
    assert manifest == read_manifest(store)
    assert (subject.num_voxels, subject.num_repeats) == (40, 3)
    counts = {k: [shard.num_samples for shard in v] for k, v in subject.splits.items()}
    assert counts == COUNTS
    found = {path: {} for path in published}
    for s in all_samples(store):
        bodies = read_members(store, [(s, suffix) for suffix in s.members])
        found[s.shard][s.key] = dict(zip(s.members, bodies, strict=True))
    assert found == published
    after = files(store)
    assert {name: after[name] for name in before} == before, "shards stay as they were"


def test_shards_are_in_the_order_of_their_numbers(store):
    write_published(store, "subj01", {"train": [1] * 12})
    shards = index_shards(Index(url=store.url)).subject("subj01").splits["train"]
    assert [s.path for s in shards] == [f"train/train_subj01_{i}.tar" for i in range(12)]


def test_subjects_are_added_one_at_a_time(store, published):
    write_published(store, "subj02", COUNTS, num_voxels=30)
    index_shards(Index(url=store.url, subject="subj02"))
    assert sorted(read_manifest(store).subjects) == ["subj02"]
    before = read_manifest(store).subject("subj02")
    with pytest.raises(DataError, match=r"manifest.json: has subj02 already"):
        index_shards(Index(url=store.url))
    manifest = index_shards(Index(url=store.url, subject="subj01"))
    assert {k: s.num_voxels for k, s in manifest.subjects.items()} == {"subj01": 40, "subj02": 30}
    assert manifest.subject("subj02") == before
    index_shards(Index(url=store.url, overwrite=True))
    with pytest.raises(DataError, match=r"no shards of 'subj05', only of \['subj01', 'subj02'\]"):
        index_shards(Index(url=store.url, subject="subj05"))


def test_what_others_enter_meanwhile_stays(store, published, monkeypatch):
    """Another job enters targets of another subject while tars are scanned; then this one."""
    write_published(store, "subj02", COUNTS, num_voxels=30)
    index_shards(Index(url=store.url, subject="subj01"))
    scan = work.scan_shards

    def slow(*arguments):
        add_random_targets(store)
        return scan(*arguments)

    monkeypatch.setattr(work, "scan_shards", slow)
    manifest = index_shards(Index(url=store.url, subject="subj02"))
    assert manifest == read_manifest(store)
    assert sorted(manifest.subjects) == ["subj01", "subj02"]
    assert list(manifest.subject("subj01").targets) == ["random"]


def test_a_subject_that_came_meanwhile_keeps_its_indexes(store, published, monkeypatch):
    scan = work.scan_shards

    def slow(*arguments):
        monkeypatch.setattr(work, "scan_shards", scan)
        index_shards(Index(url=store.url, checksums=True))
        return scan(*arguments)

    monkeypatch.setattr(work, "scan_shards", slow)
    with pytest.raises(DataError, match=r"manifest.json: has subj01 already"):
        index_shards(Index(url=store.url))
    assert all(s.member(VOXELS).checksum for s in all_samples(store))


def test_checksums_are_of_the_members_that_training_reads(store, published):
    index_shards(Index(url=store.url, checksums=True))
    for s in all_samples(store):
        known = {suffix for suffix, member in s.members.items() if member.checksum}
        assert known == {"jpg", VOXELS, DISTINCT}
    s = all_samples(store)[0]
    path = Path(store.locate(s.shard))
    data = bytearray(path.read_bytes())
    data[s.member(VOXELS).offset + 200] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{s.shard}: sample {s.key}: {VOXELS}"):
        read_members(store, [(s, VOXELS)])


def test_a_short_read_is_an_error_without_checksums_too(store, published):
    index_shards(Index(url=store.url))
    s = all_samples(store)[-1]
    path = Path(store.locate(s.shard))
    path.write_bytes(path.read_bytes()[: s.member(VOXELS).offset + 100])
    with pytest.raises(DataError, match=rf"{s.key}: {VOXELS} at byte \d+: got 100 bytes.*any"):
        read_members(store, [(s, VOXELS)])


def bad_header(data):
    """Break the second sample's first header: tarfile takes it for the tar's end."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        offset = next(e.offset for e in tar if e.name == "sample00000004.coco73k.npy")
    return data[: offset + 148] + b"99999999" + data[offset + 156 :]


def with_voxels(samples, body):
    key = "sample00000004"
    return {**samples, key: {**samples[key], VOXELS: body}}


def without(samples, suffix):
    key = "sample00000004"
    return {**samples, key: {k: v for k, v in samples[key].items() if k != suffix}}


def apart(samples):
    """Move the picture of the last sample before all others."""
    key, members = list(samples.items())[-1]
    rest = {suffix: body for suffix, body in members.items() if suffix != "jpg"}
    return pack([(key, {"jpg": members["jpg"]}), *list(samples.items())[:-1], (key, rest)])


def without_end(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        last = list(tar)[-1]
    return data[: last.offset_data + -(-last.size // 512) * 512 + 512]


VOXELS_OF_ANOTHER = npy.encode(np.zeros((3, 39), np.float16))
BAD = {
    "cut in a volume": (lambda s: pack(s.items())[:30_000], "cut short|unexpected end"),
    "cut in the end": (lambda s: without_end(pack(s.items())), "without the mark of a tar's end"),
    "empty": (lambda s: b"", "not a whole tar"),
    "no samples": (lambda s: pack([]), "has no samples"),
    "no tar": (lambda s: bytes(range(256)) * 100, "not a whole tar"),
    "corrupt header": (
        lambda s: bad_header(pack(s.items())),
        "after sample sample00000003: corrupt header",
    ),
    "apart": (apart, "members of sample sample00000005 are not side by side"),
    "no voxels": (
        lambda s: pack(without(s, VOXELS).items()),
        r"sample00000004 has no nsdgeneral.npy, only \['coco73k.npy'",
    ),
    "no picture": (
        lambda s: pack(without(s, "jpg").items()),
        "sample00000004 has no jpg or png, only",
    ),
    "no number": (
        lambda s: pack(without(s, DISTINCT).items()),
        "sample00000004 has no num_uniques.npy",
    ),
    "other voxels": (
        lambda s: pack(with_voxels(s, VOXELS_OF_ANOTHER).items()),
        "sample00000004: nsdgeneral.npy has 362 bytes, expected 368 as in train/train_subj01_0.tar",
    ),
    "sample lost": (
        lambda s: pack(list(s.items())[1:]),
        r"subj01: the shards hold \{'train': 7, 'val': 2, 'test': 4\} samples.*metadata_subj01",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("checksums", [False, True])
def test_bad_shards_are_named_and_nothing_is_written(store, published, name, checksums):
    spoil, message = BAD[name]
    store.write(SHARD, spoil(published[SHARD]))
    before = files(store)
    with pytest.raises(DataError, match=message) as raised:
        index_shards(Index(url=store.url, checksums=checksums))
    assert SHARD in str(raised.value) or name == "sample lost"
    assert files(store) == before


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\x93NUMPY nonsense" * 20, "not a plain .npy array"),
        (npy.encode(np.zeros(120, np.float16)), r"float16 \(120,\), expected floats \(repeats"),
        (npy.encode(np.zeros((3, 40), np.int16)), r"int16 \(3, 40\), expected floats"),
        (npy.encode(np.zeros((3, 40), np.float16))[:-2], r"has 366 bytes, expected 368"),
    ],
)
def test_voxels_that_are_no_responses(store, body, message):
    store.write(
        "train/train_subj01_0.tar", pack([("a", {**sample(0, 40, (1, 1, 1)), VOXELS: body})])
    )
    with pytest.raises(DataError, match=rf"train_subj01_0.tar: sample a: {VOXELS}: .*{message}"):
        index_shards(Index(url=store.url))


def test_missing_shards_and_unreadable_metadata(store, published):
    (Path(store.url) / SHARD).rename(Path(store.url) / "elsewhere")
    with pytest.raises(DataError, match=f"{SHARD}: is missing, of 3 shards"):
        index_shards(Index(url=store.url))
    (Path(store.url) / "elsewhere").rename(Path(store.url) / SHARD)
    store.write("metadata_subj01.json", b"{}")
    with pytest.raises(DataError, match="metadata_subj01.json: expected"):
        index_shards(Index(url=store.url))
    with pytest.raises(DataError, match="nowhere: has no shards like train/train_subj01_0.tar"):
        index_shards(Index(url=store.locate("nowhere")))


def test_command_line(store, published, capsys):
    main(["index", store.url, "--checksums"])
    assert "subj01: 40 voxels, samples {'train': 8, 'val': 2, 'test': 4}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["index", store.url])
    assert "has subj01 already" in str(stopped.value.code)


def add_random_targets(store):
    """Write clip_tokens for all samples, enter them into the manifest, and return their bytes."""
    manifest, size = read_manifest(store), 0
    subject, generator = manifest.subject("subj01"), np.random.default_rng(0)
    splits = {}
    for split, shards in subject.splits.items():
        keys = [s.key for shard in shards for s in read_index(store, shard)]
        members = [npy.encode(generator.standard_normal((5, 16)).astype(np.float16)) for _ in keys]
        size += sum(len(member) for member in members) if split != "test" else 0
        samples = [(k, {"clip_tokens.npy": m}) for k, m in zip(keys, members, strict=True)]
        splits[split] = write_shards(store, f"targets/{split}", samples)
    targets = Targets(
        kind="clip_tokens", encoder="random", digest="0", shape=(5, 16), variants=0, splits=splits
    )
    changed = replace(subject, targets={"random": targets})
    write_manifest(store, replace(manifest, subjects={"subj01": changed}))
    return size


class Fetched:
    """Bytes that were fetched, and how much of them a reader could not do without."""

    def __init__(self, published):
        self.count = 0
        self.requests = 0
        self.members = sum(
            len(members[suffix])
            for path, samples in published.items()
            for members in samples.values()
            for suffix in (VOXELS, DISTINCT)
            if not path.startswith("test/")
        )
        self.everything = sum(len(pack(samples.items())) for samples in published.values())

    def add(self, count):
        """Note one answer's bytes."""
        self.count += count
        self.requests += 1

    def check(self, store, published, mtime, what, config):
        """Index, then train for two epochs with validation; then compare."""
        index_shards(Index(url=store.url))
        indexing = self.count
        self.members += add_random_targets(store)
        self.count = indexing  # what the test itself read to write the targets
        changes = {
            "data.url": store.url,
            "data.targets": "random",
            "training.epochs": 2,
            "training.validate_every_epochs": 1,
        }
        worker(override(config, changes))
        assert read_journal(config.run_dir)[-1]["step"] == 2 * 11 // 6
        headers = sum(
            len(samples) * 6 * (512 if mtime == INTEGER_TIME else 1536)
            for samples in published.values()
        )
        with_headers = self.count / (self.members + headers)
        sys.stdout.write(
            f"\n{what}: {self.count} bytes fetched of {self.everything}, {indexing} to index, "
            f"{self.requests} requests; {self.count / self.members:.4f} x the members used, "
            f"{with_headers:.4f} x members and headers\n"
        )
        assert self.count / self.members >= 1
        assert with_headers <= 1.05
        assert self.count / self.members <= 1.2
        assert self.count < 0.04 * self.everything


@pytest.mark.s3
@pytest.mark.parametrize("mtime", [INTEGER_TIME, FRACTIONAL_TIME])
def test_volumes_are_never_fetched_from_s3(s3, fresh_clients, monkeypatch, mtime, tiny_config):
    """Oracle: the lengths of the bodies that the server sent, as its responses state them."""
    folder = f"published-{mtime}"
    store = Store(f"s3://lab/{folder}")
    published = write_published(store, "subj01", LONGER, mtime=mtime, **FULL_SIZE)
    fetched = Fetched(published)
    send = AIOHTTPSession.send

    async def counted(self, request):
        response = await send(self, request)
        if request.method == "GET" and f"/{folder}/" in request.url:
            fetched.add(int(response.headers["content-length"]))
        return response

    monkeypatch.setattr(AIOHTTPSession, "send", counted)
    fetched.check(store, published, mtime, f"S3, times {mtime}", tiny_config)


def test_volumes_are_never_read_from_a_folder(store, monkeypatch, tiny_config):
    """Oracle: the lengths of all that the store returned."""
    published = write_published(store, "subj01", LONGER, **FULL_SIZE)
    fetched = Fetched(published)
    read, read_ranges = Store.read, Store.read_ranges

    def counted_read(self, path):
        data = read(self, path)
        fetched.add(len(data))
        return data

    def counted_ranges(self, ranges):
        parts = read_ranges(self, ranges)
        for part in parts:
            fetched.add(len(part))
        return parts

    monkeypatch.setattr(Store, "read", counted_read)
    monkeypatch.setattr(Store, "read_ranges", counted_ranges)
    fetched.check(store, published, FRACTIONAL_TIME, "folder", tiny_config)


@pytest.mark.s3
def test_index_of_s3_is_that_of_a_folder(s3, fresh_clients, tmp_path):
    """Oracle: the same shards in a local folder."""
    manifests = []
    for url in ("s3://lab/indexed", str(tmp_path)):
        write_published(Store(url), "subj01", COUNTS)
        manifests.append(index_shards(Index(url=url, checksums=True)))
    assert manifests[0] == manifests[1]
    s3_store = Store("s3://lab/indexed")
    s3_store.write(SHARD, b"no tar" * 200)
    with pytest.raises(DataError, match=f"s3://lab/indexed/{SHARD}: not a whole tar"):
        index_shards(Index(url=s3_store.url, overwrite=True))
    with pytest.raises(DataError, match=re.escape("s3://lab/nothing-here: has no shards")):
        index_shards(replace(Index(url="s3://lab/nothing-here"), threads=2))
