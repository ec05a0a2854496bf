"""Bad samples: raised, or replaced alike on any number of workers, named and counted.

Oracle: a loader of the whole shards whose order is changed by hand, so that others stand where the
bad samples stood; nothing else may differ.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mindeye_dist.data.loader import eval_batches
from mindeye_dist.errors import BadSampleError, DataError
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

STEPS = range(12)  # three epochs of 23 in batches of 6
VIEWS = ("clip_tokens.npy", "clip_tokens.1.npy", "clip_tokens.2.npy")


@pytest.fixture
def own_shards(tiny_shards, tmp_path):
    """Return a copy of the tiny subject that a test may break."""
    return shutil.copytree(tiny_shards, tmp_path / "broken")


def damage(folder, numbers):
    """Flip a bit in the voxels of samples."""
    for number in numbers:
        path, _, member = member_offset(folder, "nsdgeneral.npy", number)
        flip(path, member)


def by_hand(folder, bad, **changes):
    """Return a loader of whole shards in whose order the next ones stand for bad samples."""
    loader = open_loader(folder, **changes)
    order = loader.order

    def changed(step):
        numbers = order(step)
        for position, number in enumerate(numbers.tolist()):
            if number in bad:
                others = loader.replacements(step, position).tolist()
                numbers[position] = next(other for other in others if other not in bad)
        return numbers

    return loader, changed


def assert_same_batches(loader, folder, bad, world_size=1, **changes):
    oracle, order = by_hand(folder, bad, **changes)
    expected = {step: order(step) for step in STEPS}
    oracle.order = expected.get
    for step in STEPS:
        parts = [loader.batch(step, rank, world_size) for rank in range(world_size)]
        whole = oracle.batch(step, 0, 1)
        assert sum((part.keys for part in parts), ()) == whole.keys
        assert torch.equal(torch.cat([part.voxels for part in parts]), whole.voxels)
        for kind, rows in whole.targets.items():
            assert torch.equal(torch.cat([part.targets[kind] for part in parts]), rows), kind


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_bad_samples_are_replaced_alike_on_any_number_of_workers(
    tiny_shards, own_shards, world_size
):
    bad = (2, 3, 11, 19)
    damage(own_shards, bad)
    changes = {"kinds": ("clip_tokens", "latents", "feature_map")}
    loader = open_loader(own_shards, on_bad_sample="skip", **changes)
    assert_same_batches(loader, tiny_shards, bad, world_size, **changes)
    wanted = {n for step in STEPS for n in loader.order(step).tolist()}
    assert loader.bad.up_to(STEPS[-1]).keys() >= wanted & set(bad)


def nan_voxel(folder):
    path, _, member = member_offset(folder, "nsdgeneral.npy")
    overwrite_last(path, member, np.nan)
    reindex(folder, path)


def wrong_count(folder):
    path, _, member = member_offset(folder, "num_uniques.npy")
    overwrite(path, member.offset + member.size - 8, np.array(9).tobytes())
    reindex(folder, path)


def missing_voxels(folder):
    path, key, _ = member_offset(folder, "nsdgeneral.npy")
    # Letters in another order: the header's checksum is their sum.
    names = (f"{key}.{name}.npy".encode() for name in ("nsdgeneral", "nsdgenearl"))
    path.write_bytes(path.read_bytes().replace(*names))
    reindex(folder, path)


def damaged_target(folder):
    for suffix in VIEWS:
        path, _, member = target_offset(folder, suffix)
        flip(path, member)


def infinite_target(folder):
    for suffix in VIEWS:
        path, _, member = target_offset(folder, suffix)
        overwrite_last(path, member, np.inf)
    reindex(folder, path)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (nan_voxel, r"nsdgeneral.npy at byte \d+: 1 values are not finite"),
        (wrong_count, r"num_uniques.npy at byte \d+: is 9, expected 1..3"),
        (missing_voxels, "has no nsdgeneral.npy"),
        (damaged_target, r"clip_tokens.\d.npy at byte \d+: got \d+ bytes with checksum"),
        (infinite_target, r"clip_tokens.\d.npy at byte \d+: 1 values are not finite"),
    ],
)
def test_every_kind_of_damage(tiny_shards, own_shards, spoil, why):
    """Named: shard, key, offset and why; raised where it is to be."""
    key = open_dataset(tiny_shards)[0].samples[2].key
    spoil(own_shards)
    loader = open_loader(own_shards, on_bad_sample="skip")
    assert_same_batches(loader, tiny_shards, {2})
    found = loader.bad.up_to(STEPS[-1])
    assert found.keys() == {2}
    assert key in found[2]
    assert ".tar" in found[2]
    with pytest.raises(BadSampleError, match=why):
        [open_loader(own_shards).batch(step, 0, 1) for step in STEPS]


def test_only_the_damaged_view_is_bad(tiny_shards, own_shards):
    """What a place does not need of a sample is not asked for, whatever was met before."""
    path, _, member = target_offset(own_shards, "clip_tokens.1.npy")
    flip(path, member)
    skipping, clean = open_loader(own_shards, on_bad_sample="skip"), open_loader(tiny_shards)
    kept = 0
    for step in STEPS:
        for position, number in enumerate(clean.order(step).tolist()):
            if number == 2:
                view = clean._view(clean.dataset.sources["clip_tokens"], step, position)
                there = skipping.batch(step, 0, 1).keys[position] == clean.dataset.samples[2].key
                assert there == (view != 1)
                kept += there
    assert kept > 0


def test_one_more_than_the_limit_stops_with_the_list(own_shards):
    bad = (2, 3, 11)
    damage(own_shards, bad)
    keys = [open_dataset(own_shards)[0].samples[number].key for number in bad]
    loader = open_loader(own_shards, on_bad_sample="skip", max_bad_samples=2)
    with pytest.raises(DataError, match="3 bad samples, data.max_bad_samples is 2") as error:
        [loader.batch(step, 0, 1) for step in STEPS]
    assert all(key in str(error.value) for key in keys)
    none = open_loader(own_shards, on_bad_sample="skip", max_bad_samples=0)
    with pytest.raises(DataError, match="1 bad samples, data.max_bad_samples is 0"):
        [none.batch(step, 0, 1) for step in STEPS]


def test_a_shard_that_is_gone_is_not_a_bad_sample(own_shards):
    path, _, _ = member_offset(own_shards, "nsdgeneral.npy")
    path.unlink()
    loader = open_loader(own_shards, on_bad_sample="skip")
    with pytest.raises(DataError, match="cannot be read"):
        [loader.batch(step, 0, 1) for step in STEPS]
    assert loader.bad.up_to(STEPS[-1]) == {}


def test_validation_raises_whatever_training_does(own_shards):
    damage(own_shards, [2])
    dataset, _ = open_dataset(own_shards, on_bad_sample="skip")
    with pytest.raises(BadSampleError, match="nsdgeneral.npy at byte"):
        list(eval_batches(dataset, 6, 0, 1))


def test_who_stands_in_is_not_in_the_batch(tiny_shards):
    loader = open_loader(tiny_shards)
    for step in STEPS:
        inside = set(loader.order(step).tolist())
        drawn = loader.replacements(step, 3).tolist()
        assert sorted(drawn) == list(range(23))
        assert set(drawn[-len(inside) :]) == inside
    assert loader.replacements(1, 2).tolist() != loader.replacements(1, 3).tolist()
    again = open_loader(tiny_shards)
    np.testing.assert_array_equal(loader.replacements(5, 0), again.replacements(5, 0))


def test_read_ahead_replaces_alike(tiny_shards, own_shards):
    """Threads fetch the same samples at once; a bad one must not fail the others' batches."""
    damage(own_shards, (2, 3))
    one = open_loader(own_shards, on_bad_sample="skip")
    ahead = open_loader(in_memory(own_shards), on_bad_sample="skip", cache_gib=0.0)
    for batch in ahead.batches(0, len(STEPS), 0, 1):
        alone = one.batch(batch.step, 0, 1)
        assert batch.keys == alone.keys
        assert torch.equal(batch.voxels, alone.voxels)


def test_a_bad_sample_fails_only_those_who_ask_for_it(own_shards, monkeypatch):
    damage(own_shards, [2])
    dataset, _ = open_dataset(in_memory(own_shards))
    read_ranges, waiting = Store.read_ranges, []

    def slow(self, ranges):
        if not waiting:  # the first of all: others come to wait for what it reads
            waiting.append(pool.submit(dataset.voxels, [0, 1]))
            while not waiting[0].running():
                pass
        return read_ranges(self, ranges)

    monkeypatch.setattr(Store, "read_ranges", slow)
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(BadSampleError, match="nsdgeneral.npy"):
            dataset.voxels([0, 1, 2])
        assert len(waiting[0].result()) == 2


def test_an_outage_among_bad_samples_keeps_nobody_waiting(tiny_shards):
    """The first sample is bad; while the others are read one by one, the store fails."""
    dataset, _ = open_dataset(in_memory(tiny_shards))
    fetch, calls = dataset._fetch, []

    def failing(keys):
        calls.append(keys)
        if len(calls) <= 2:
            raise BadSampleError("the first is damaged")
        raise DataError("the store is gone")

    dataset._fetch = failing
    with pytest.raises(DataError, match="the store is gone"):
        dataset.voxels([0, 1, 2])
    dataset._fetch = fetch
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(dataset.voxels, [0, 1, 2]).result(timeout=60)) == 3
