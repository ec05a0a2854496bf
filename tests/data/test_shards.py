"""Tars, indexes and writer; the oracle for contents is Python's tarfile and webdataset's reader."""

import io
import string
import tarfile
from contextlib import suppress

import numpy as np
import pytest
import webdataset

from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import (
    VOXELS,
    Member,
    Sample,
    decode_npy,
    read_index,
    scan_tar,
    write_shard,
)
from mindeye_dist.data.writer import pack, write_shards
from mindeye_dist.errors import DataError
from mindeye_dist.ingest.published_shards import read_voxel_shape
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store


def samples(count):
    return [
        (
            f"sample{i:09d}",
            {
                "coco73k.npy": npy.encode(np.array(i)),
                "nsdgeneral.npy": npy.encode(np.full((3, 4), i, np.float16)),
            },
        )
        for i in range(count)
    ]


def test_webdataset_reads_what_we_write(tmp_path):
    shards = write_shards(
        Store(str(tmp_path)), "train/train_subj01", samples(7), samples_per_shard=3
    )
    assert [s.num_samples for s in shards] == [3, 3, 1]
    urls = [str(tmp_path / s.path) for s in shards]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [s["__key__"] for s in read] == [key for key, _ in samples(7)]
    for i, sample in enumerate(read):
        np.testing.assert_array_equal(sample["nsdgeneral.npy"], np.full((3, 4), i))


def test_same_samples_give_the_same_bytes():
    assert pack(samples(3)) == pack(samples(3))


def test_index_points_at_the_members(tmp_path):
    """Oracle: tarfile's own extraction."""
    store = Store(str(tmp_path))
    shard = write_shard(store, "a.tar", pack(samples(4)))
    indexed = read_index(store, shard)
    with tarfile.open(tmp_path / "a.tar") as tar:
        for sample in indexed:
            for suffix in sample.members:
                expected = tar.extractfile(f"{sample.key}.{suffix}").read()
                assert read_members(store, [(sample, suffix)]) == [expected]


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 1536, 2048])
def test_cut_tar_is_refused(cut):
    """Cuts inside headers, members, and, which tarfile lets pass, between members."""
    with pytest.raises(DataError, match="a.tar"):
        scan_tar(io.BytesIO(pack(samples(4))[:cut]), "a.tar")


def test_corrupt_header_is_refused():
    data = bytearray(pack(samples(4)))
    data[148:156] = b"99999999"
    with pytest.raises(DataError, match="a.tar: not a whole tar file"):
        scan_tar(io.BytesIO(data), "a.tar")


@pytest.mark.parametrize("offset", [148, 2048 + 148, 6 * 1024 + 148])
def test_corrupt_header_anywhere_is_refused(offset):
    """Tarfile takes one in the middle for the end of the tar."""
    data = bytearray(pack(samples(4)))
    assert data[offset + 109 : offset + 114] == b"ustar", "there is a header"
    data[offset : offset + 8] = b"99999999"
    with pytest.raises(DataError, match="a.tar: .*byte"):
        scan_tar(io.BytesIO(data), "a.tar")


@pytest.mark.parametrize("mtime", [0, 1.5])
def test_no_flipped_byte_moves_a_member(mtime):
    """Whatever byte of a tar is spoilt, its members are found where they were, or it is refused."""
    buffer = io.BytesIO()
    writer = webdataset.TarWriter(buffer, encoder=False, mtime=mtime)
    for key, members in samples(2):
        writer.write({"__key__": key, **members})
    writer.close()
    data = buffer.getvalue()
    whole = scan_tar(io.BytesIO(data), "a.tar")
    refused = 0
    for place in range(0, len(data), 7):
        spoilt = bytearray(data)
        spoilt[place] ^= 0x11
        try:
            assert scan_tar(io.BytesIO(spoilt), "a.tar") == whole
        except DataError:
            refused += 1
    assert refused > 100


def test_members_in_folders_keep_webdataset_keys(tmp_path):
    """Oracle: webdataset's reader, with a dot in a folder's name and a file without a key."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("./v1.0/a.x.npy", "./v1.0/a.txt", "./v1.0/.hidden"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    read = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    ours = scan_tar(io.BytesIO((tmp_path / "a.tar").read_bytes()), "a.tar")
    assert [s.key for s in ours] == [s["__key__"] for s in read] == ["./v1.0/a"]
    assert set(ours[0].members) == {k for k in read[0] if not k.startswith("__")}


def test_members_of_a_key_stay_together_and_single():
    apart = samples(1) + samples(2)[1:] + samples(1)
    with pytest.raises(DataError, match="sample000000000"):
        scan_tar(io.BytesIO(pack(apart)), "a.tar")


def test_missing_member_is_named(tmp_path):
    store = Store(str(tmp_path))
    shard = write_shard(store, "a.tar", pack(samples(1)))
    with pytest.raises(
        DataError,
        match=r"a.tar: sample sample000000000 has no trial.npy, only \['coco73k.npy'",
    ):
        read_members(store, [(read_index(store, shard)[0], "trial.npy")])


@pytest.fixture(scope="module")
def damaged_arrays():
    """Return an array's file once for each place in its header and each byte that may stand there.

    Past the dictionary, which ends before place 72, is nothing but spaces: a few do.
    """
    whole = npy.encode(np.zeros((3, 4), np.float16))
    assert whole[70:120].isspace()
    places = [*range(72), 100, 126, 127]
    spoilt = [
        whole[:place] + bytes([byte]) + whole[place + 1 :]
        for place in places
        for byte in (*string.printable.encode(), 0, 128, 255)
    ]
    return [body for body in spoilt if body != whole]


@pytest.mark.filterwarnings("ignore")  # numpy's, of headers that it can read but finds odd
def test_damaged_arrays_are_data_errors(damaged_arrays):
    """Whatever byte of a header is spoilt, an array is read or DataError says where."""
    read = 0
    for body in damaged_arrays:
        with suppress(DataError):
            decode_npy(body, "a.tar: sample 1")
            read += 1
    assert 0 < read < 0.1 * len(damaged_arrays)
    with pytest.raises(DataError, match=r"a.tar: sample 1: not a plain .npy array"):
        decode_npy(damaged_arrays[0], "a.tar: sample 1")


@pytest.mark.filterwarnings("ignore")
def test_damaged_headers_are_data_errors(damaged_arrays, tmp_path):
    """As above, where the header alone is read; oracle for what passes: the array's own shape."""
    store = Store(str(tmp_path))
    store.write("a.tar", b"".join(damaged_arrays))
    size, read = len(damaged_arrays[0]), 0
    for number in range(len(damaged_arrays)):
        members = {VOXELS: Member(number * size, size, "")}
        with suppress(DataError):
            assert sorted(read_voxel_shape(store, Sample("a.tar", "1", members))) == [3, 4]
            read += 1
    assert 0 < read < 0.1 * len(damaged_arrays)


def test_shards_that_are_named_after_their_contents(tmp_path):
    store = Store(str(tmp_path))
    one = write_shards(store, "train/a", samples(4), 3, by_contents=True)
    assert [s.path for s in one] == [f"train/a_{i}-{s.sha256[:12]}.tar" for i, s in enumerate(one)]
    other = write_shards(store, "train/a", samples(5)[1:], 3, by_contents=True)
    assert not {s.path for s in one} & {s.path for s in other}
    assert [len(read_index(store, s)) for s in (*one, *other)] == [3, 1, 3, 1]
