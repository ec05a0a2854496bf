"""Order, parts and repeats of the loader; and everything that can be wrong with a shard."""

import json
import shutil
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mindeye_dist.data.loader import eval_batches
from mindeye_dist.data.manifest import MANIFEST, read_manifest
from mindeye_dist.errors import BadSampleError, DataError
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store
from tests.broken_shards import (
    flip,
    in_memory,
    member_offset,
    open_dataset,
    open_loader,
    overwrite,
    overwrite_last,
    reindex,
    target_offset,
)
from tests.conftest import write_random_subject


def test_every_epoch_is_a_permutation(tiny_shards):
    loader = open_loader(tiny_shards)
    count = len(loader.dataset)
    steps = -(-3 * count // loader.global_batch_size)
    stream = np.concatenate([loader.order(step) for step in range(steps)])
    epochs = [stream[i * count : (i + 1) * count] for i in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    assert list(epochs[0]) != list(epochs[1])


def test_order_is_a_function_of_the_seed(tiny_shards):
    one, same, other = (open_loader(tiny_shards, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.order(5), same.order(5))
    assert list(one.order(5)) != list(other.order(5))


@pytest.mark.parametrize("world_size", [1, 2, 4, 5])
def test_global_batch_does_not_depend_on_the_workers(tiny_shards, world_size):
    """Oracle: the one worker's batch, repeats' draws included."""
    kinds = ("clip_tokens", "latents", "feature_map")
    loader = open_loader(tiny_shards, repeat_draw="random_combine", kinds=kinds)
    whole = loader.batch(3, 0, 1)
    parts = [loader.batch(3, rank, world_size) for rank in range(world_size)]
    torch.testing.assert_close(torch.cat([p.voxels for p in parts]), whole.voxels, rtol=0, atol=0)
    for kind, rows in whole.targets.items():
        assert torch.equal(torch.cat([p.targets[kind] for p in parts]), rows), kind
    assert sum((p.keys for p in parts), ()) == whole.keys
    assert [p.start for p in parts] == list(np.cumsum([0, *[len(p.keys) for p in parts[:-1]]]))


def test_read_ahead_gives_the_same_batches_in_order(tiny_shards):
    loader = open_loader(tiny_shards)
    steps = []
    for batch in loader.batches(2, 9, 0, 1):
        torch.testing.assert_close(batch.voxels, loader.batch(batch.step, 0, 1).voxels)
        steps.append(batch.step)
    assert steps == list(range(2, 9))


@pytest.mark.parametrize("where", ["folder", "memory"])
@pytest.mark.parametrize("ahead", [1, 3])
def test_memory_is_taken_again_but_not_that_of_a_batch_in_use(tiny_shards, where, ahead):
    """A batch and the two before it stay as they are. Oracle: each read by itself."""
    url = tiny_shards if where == "folder" else in_memory(tiny_shards)
    loader = open_loader(url, prefetch_batches=ahead)
    steps, places = 20, set()
    held = deque(maxlen=3)
    alone = [loader.batch(step, 0, 1) for step in range(steps)]
    for batch in loader.batches(0, steps, 0, 1):
        held.append(batch)
        places.add(batch.voxels.data_ptr())
        time.sleep(0.005)  # what is read ahead is read by now
        for own in held:
            assert torch.equal(own.voxels, alone[own.step].voxels)
            for kind, rows in own.targets.items():
                assert torch.equal(rows, alone[own.step].targets[kind]), kind
    assert len(places) == ahead + 2


def test_small_cache_changes_nothing(tiny_shards):
    url = in_memory(tiny_shards)
    cached, uncached = open_loader(url), open_loader(url, cache_gib=0.0)
    for step in (0, 4, 5):
        for _ in range(2):
            torch.testing.assert_close(
                cached.batch(step, 0, 1).voxels, uncached.batch(step, 0, 1).voxels, rtol=0, atol=0
            )


def assert_same_epochs(here, there):
    for step in range(12):  # the second epoch reads a folder otherwise than the first
        one, other = here.batch(step, 0, 1), there.batch(step, 0, 1)
        assert one.keys == other.keys
        assert torch.equal(one.voxels, other.voxels)
        for kind, rows in other.targets.items():
            assert one.targets[kind].dtype == rows.dtype
            assert torch.equal(one.targets[kind], rows), kind


def test_a_folder_gives_what_its_members_decode_to(own_shards):
    """From a folder numbers are read straight into the batch; oracle: each member decoded."""
    for number in (2, 9):  # in an order of bytes that does not fit there
        path, _, member = target_offset(own_shards, "clip_tokens.1.npy", number)
        array = npy.decode(path.read_bytes()[member.offset :][: member.size])
        overwrite(path, member.offset, npy.encode(array.astype(">f2")))
        reindex(own_shards, path)
    here, there = (
        open_loader(url, kinds=("clip_tokens", "latents", "feature_map"))
        for url in (own_shards, in_memory(own_shards))
    )
    assert_same_epochs(here, there)


def test_damage_that_comes_after_a_first_reading_is_seen(own_shards):
    dataset, _ = open_dataset(own_shards)
    before = dataset.voxels([2])[0]
    np.testing.assert_array_equal(dataset.voxels([2])[0], before)
    path, key, member = member_offset(own_shards, "nsdgeneral.npy")
    flip(path, member)
    with pytest.raises(BadSampleError, match=f"{key}: nsdgeneral.npy at byte {member.offset}"):
        dataset.voxels([2])


def test_later_epochs_are_read_straight_into_the_batch(tiny_shards, monkeypatch):
    loader = open_loader(tiny_shards, batch=23, augmented=False)
    first = loader.batch(0, 0, 1)
    monkeypatch.delattr(Store, "read_ranges")  # by which all else is read
    again = loader.batch(1, 0, 1)
    assert set(again.keys) == set(first.keys)
    places = [first.keys.index(key) for key in again.keys]
    assert torch.equal(again.targets["clip_tokens"], first.targets["clip_tokens"][places])


def test_a_replaced_shard_is_looked_at_anew_where_it_is_not_as_indexed(own_shards):
    dataset, _ = open_dataset(own_shards)
    before = [dataset.voxels([2])[0] for _ in range(2)][1]
    path, _, member = member_offset(own_shards, "nsdgeneral.npy")
    whole = path.read_bytes()
    flip(path, member)
    with pytest.raises(BadSampleError):
        dataset.voxels([2])
    mended = path.with_suffix(".mended")
    mended.write_bytes(whole)
    mended.replace(path)
    np.testing.assert_array_equal(dataset.voxels([2])[0], before)
    damaged = dataset.store.counts.damaged
    np.testing.assert_array_equal(dataset.voxels([2])[0], before)
    assert dataset.store.counts.damaged == damaged


def test_a_header_with_a_precision_that_there_is_not_is_a_bad_sample(own_shards):
    dataset, _ = open_dataset(own_shards)
    dataset.voxels([2])
    path, _, member = member_offset(own_shards, "nsdgeneral.npy")
    header = path.read_bytes()[member.offset :][:64]
    overwrite(path, member.offset, header.replace(b"<f2", b"<b2"))
    reindex(own_shards, path)
    again, _ = open_dataset(own_shards)
    again._distinct.update(dataset._distinct)  # as if it had been read before
    with pytest.raises(BadSampleError, match="not a plain"):
        again.voxels([2])


def test_targets_of_higher_precision_keep_it(tmp_path):
    write_random_subject(tmp_path, 9, (3, 4), 24, precision=np.float32)
    here, there = (
        open_loader(url, targets="random", augmented=False)
        for url in (tmp_path, in_memory(tmp_path))
    )
    assert_same_epochs(here, there)
    assert here.batch(0, 0, 1).targets["clip_tokens"].dtype == torch.float32


def test_batches_read_ahead_fetch_nothing_twice(tiny_shards, monkeypatch):
    """Three epochs are read ahead at once; the oracle is a list of what the store was asked for."""
    loader = open_loader(in_memory(tiny_shards), batch=20, prefetch_batches=4)
    asked = []
    read_ranges = Store.read_ranges

    def slow(self, ranges):
        asked.extend(ranges)
        time.sleep(0.05)
        return read_ranges(self, ranges)

    monkeypatch.setattr(Store, "read_ranges", slow)
    assert len(list(loader.batches(0, 4, 0, 1))) == 4
    # The picture's own view is read once; each of its two augmented ones at most once.
    assert len(asked) == len(set(asked)) <= 23 * (2 + 2)


def test_a_failed_read_reaches_all_who_wait_and_is_not_kept(tiny_shards, monkeypatch):
    url = in_memory(tiny_shards)
    expected = open_dataset(url)[0].voxels([0])[0]
    dataset, _ = open_dataset(url)
    read_ranges, gate = Store.read_ranges, threading.Event()

    def failing(self, ranges):
        gate.wait(10)
        raise DataError("gone")

    monkeypatch.setattr(Store, "read_ranges", failing)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(dataset.voxels, [0]) for _ in range(2)]
        gate.set()
        for future in both:
            with pytest.raises(DataError, match="gone"):
                future.result()
    monkeypatch.setattr(Store, "read_ranges", read_ranges)
    np.testing.assert_array_equal(dataset.voxels([0])[0], expected)


def test_evaluation_averages_the_distinct_repeats(tiny_shards):
    """Oracle: the arrays in the tar, read with webdataset itself."""
    import webdataset

    dataset, _ = open_dataset(tiny_shards, "test")
    voxels, tokens = dataset.averages(), dataset.all_targets("clip_tokens")
    urls = [
        str(tiny_shards / s.path)
        for s in read_manifest(Store(str(tiny_shards))).subject("subj01").splits["test"]
    ]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == len(dataset)
    for i, sample in enumerate(samples):
        distinct = int(sample["num_uniques.npy"])
        expected = sample["nsdgeneral.npy"][:distinct].astype(np.float32).mean(axis=0)
        np.testing.assert_allclose(voxels[i], expected, rtol=1e-6)
        assert sample["__key__"] == dataset.samples[i].key
    parts = [list(eval_batches(dataset, 4, rank, 3)) for rank in range(3)]
    joined = torch.cat([part[b].voxels for b in range(len(parts[0])) for part in parts])
    np.testing.assert_allclose(joined.numpy(), voxels, rtol=1e-6)
    assert tokens.shape == (len(dataset), 5, 16)


def test_views(tiny_shards):
    """Training draws among the two augmented views, which are 0.25 above and below the picture's.

    Validation takes the picture's own, and so does training where it is told to.
    """
    kinds = ("clip_tokens", "latents", "feature_map")
    loader = open_loader(tiny_shards, kinds=kinds)
    plain = open_loader(tiny_shards, kinds=kinds, augmented=False)
    shifts = {kind: set() for kind in (*kinds, "feature_map_augmented")}
    for step in range(8):
        batch, own = loader.batch(step, 0, 1), plain.batch(step, 0, 1)
        assert batch.keys == own.keys
        for kind, rows in batch.targets.items():
            for row, picture in zip(rows, own.targets[kind], strict=True):
                shifts[kind].add(round(4 * float((row - picture).mean())))
    assert shifts == {
        "clip_tokens": {-1, 1},
        "feature_map_augmented": {-1, 1},
        "feature_map": {0},
        "latents": {0},
    }
    (batch, *_) = eval_batches(open_dataset(tiny_shards, "val", kinds)[0], 4, 0, 1)
    assert torch.equal(batch.targets["feature_map"], batch.targets["feature_map_augmented"])


def test_train_and_val_can_be_joined(tiny_shards):
    """Oracle: the samples of both splits."""
    both = open_dataset(tiny_shards, "train+val")[0]
    keys = [
        [s.key for s in open_dataset(tiny_shards, part)[0].samples] for part in ("train", "val")
    ]
    assert [s.key for s in both.samples] == sum(keys, [])
    assert both.all_targets("clip_tokens").shape[0] == 30


def test_copies_that_stand_in_for_missing_repeats_are_left_out(tiny_shards):
    distinct = open_dataset(tiny_shards)[0].voxels([0, 1])
    assert [len(rows) for rows in distinct] == [2, 3]


@pytest.fixture
def own_shards(tiny_shards, tmp_path):
    """Return a copy of the tiny subject that a test may break."""
    return shutil.copytree(tiny_shards, tmp_path / "broken")


def read_all(folder):
    dataset, _ = open_dataset(folder)
    dataset.averages()


def test_missing_manifest(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/{MANIFEST}: cannot be read"):
        read_all(tmp_path)


def test_manifest_of_another_format(own_shards):
    values = json.loads((own_shards / MANIFEST).read_text())
    (own_shards / MANIFEST).write_text(json.dumps({**values, "format": "other"}))
    with pytest.raises(DataError, match="expected a manifest of format"):
        read_all(own_shards)
    (own_shards / MANIFEST).write_text(json.dumps({**values, "colour": "red"}))
    with pytest.raises(DataError, match="unknown config keys: colour"):
        read_all(own_shards)


def test_missing_shard(own_shards):
    path, _, _ = member_offset(own_shards, "nsdgeneral.npy")
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        read_all(own_shards)


def test_truncated_shard(own_shards):
    path, key, member = member_offset(own_shards, "nsdgeneral.npy")
    path.write_bytes(path.read_bytes()[: member.offset + 10])
    with pytest.raises(
        DataError,
        match=rf"{path.name}: sample {key}: nsdgeneral.npy at byte {member.offset}: got 10 ",
    ):
        read_all(own_shards)


@pytest.mark.parametrize("suffix", ["nsdgeneral.npy", "num_uniques.npy"])
def test_flipped_bit(own_shards, suffix):
    path, key, member = member_offset(own_shards, suffix)
    flip(path, member)
    with pytest.raises(
        DataError, match=rf"{path.name}: sample {key}: {suffix} at byte {member.offset}"
    ):
        read_all(own_shards)


def test_nan_voxel(own_shards):
    path, key, member = member_offset(own_shards, "nsdgeneral.npy")
    overwrite_last(path, member, np.nan)
    reindex(own_shards, path)
    with pytest.raises(
        DataError,
        match=rf"subj01: .*{path.name}: sample {key}: nsdgeneral.npy at byte {member.offset}: "
        "1 values are not finite",
    ):
        read_all(own_shards)


def test_wrong_voxel_count(own_shards):
    path, key, member = member_offset(own_shards, "nsdgeneral.npy")
    narrower = npy.encode(np.zeros((3, 20), np.float16))
    # The header's length stays; what follows is padding that the array does not reach.
    overwrite(path, member.offset, narrower[: member.size])
    reindex(own_shards, path)
    with pytest.raises(
        DataError,
        match=rf"sample {key}: .* at byte \d+: got float16 \(3, 20\), expected .*\(3, 24\)",
    ):
        read_all(own_shards)


def test_pickled_array_is_refused(own_shards):
    path, key, member = member_offset(own_shards, "nsdgeneral.npy")
    header = path.read_bytes()[member.offset : member.offset + 128].replace(b"'<f2'", b"'|O' ")
    overwrite(path, member.offset, header)
    reindex(own_shards, path)
    with pytest.raises(DataError, match=rf"sample {key}: .* at byte \d+: not a plain .npy array"):
        read_all(own_shards)


def test_changed_index(own_shards):
    path, _, _ = member_offset(own_shards, "nsdgeneral.npy")
    index = path.with_name(path.stem + ".index.json")
    index.write_text(index.read_text().replace("sample", "simple", 1))
    with pytest.raises(DataError, match=f"{index.name}: is not the index"):
        read_all(own_shards)


def test_names_that_are_not_there(tiny_shards):
    with pytest.raises(
        DataError, match=r"subject 'subj09' is not in the manifest, which has \['subj01'\]"
    ):
        open_dataset(tiny_shards, subject="subj09")
    with pytest.raises(
        DataError, match=r"no clip_tokens 'clip' in the manifest, only \['tiny-clip_tokens'\]"
    ):
        open_dataset(tiny_shards, targets="clip")
    with pytest.raises(DataError, match=r"no split \['dev'\], only"):
        open_dataset(tiny_shards, "dev")
    with pytest.raises(DataError, match="global_batch_size 24 exceeds the 23"):
        open_loader(tiny_shards, batch=24)
