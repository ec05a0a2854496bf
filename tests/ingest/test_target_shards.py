"""Embedding shard by shard: what is there is kept, what is lent is copied, the rest encoded."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from mindeye_dist.config import DataConfig
from mindeye_dist.data.augment import augment, variant_generator
from mindeye_dist.data.dataset import Dataset, computed_targets
from mindeye_dist.data.manifest import Targets, read_manifest
from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import decode_npy, intact_shard, read_index
from mindeye_dist.data.target_encoder import TargetEncoder, Views, check_encoder, encode_views
from mindeye_dist.data.writer import write_shards
from mindeye_dist.errors import DataError
from mindeye_dist.ingest import target_shards as embedding
from mindeye_dist.ingest.target_shards import (
    Task,
    embed_shard,
    known_sources,
    picture_digests,
    samples_per_shard,
    shard_path,
    source,
    without_repeats,
)
from mindeye_dist.pictures import decode, encode_jpeg
from mindeye_dist.storage.store import Store

VIEWS = Views(count=2, how="release", seed=3)


class Counting:
    """Mean colours of the four quarters of a picture, and how many pictures were asked for."""

    def __init__(self):
        self.count = 0

    def __call__(self, images):
        """Return targets (batch, 4, 3)."""
        self.count += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(2).transpose(1, 2)


def encoder(encode=None, **changes):
    facts = {"kind": "clip_tokens", "name": "quarters", "digest": "ab" * 32, "shape": (4, 3)}
    return TargetEncoder(encode=encode or Counting(), **{**facts, **changes})


def photo(number, side=24):
    return np.random.default_rng(number).integers(0, 256, (side, side + number % 3, 3), np.uint8)


def samples_of(store, name, numbers):
    """Write a shard of pictures, and return its samples."""
    rows = [(f"{name}{i}", {"jpg": encode_jpeg(photo(n))}) for i, n in enumerate(numbers)]
    (shard,) = write_shards(store, name, rows)
    return read_index(store, shard)


def task_of(store, name, numbers, views=VIEWS):
    samples = samples_of(store, name, numbers)
    return Task(
        path=f"targets/{name}",
        samples=tuple(samples),
        pictures=tuple(picture_digests(store, samples)),
        views=views,
    )


def rows_of(store, shard):
    """Return every member of a shard of targets, by key."""
    return {
        s.key: dict(zip(s.members, read_members(store, [(s, m) for m in s.members]), strict=True))
        for s in read_index(store, shard)
    }


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def test_targets_are_those_of_each_picture_alone(store):
    """Oracle: decode, draw the variant, encode one picture at a time, round."""
    task = task_of(store, "a", range(5))
    made = embed_shard(store, encoder(), task, {})
    assert made.encoded == 5
    rows = rows_of(store, made.shard)
    assert list(rows) == [sample.key for sample in task.samples]
    for number, (key, members) in enumerate(rows.items()):
        data = encode_jpeg(photo(number))
        sha256 = hashlib.sha256(data).hexdigest()
        picture = torch.from_numpy(decode(data, "here")).permute(2, 0, 1) / 255
        for variant in range(3):
            draw = variant_generator(3, "release", sha256, variant)
            image = augment(picture, "release", draw) if variant else picture
            expected = Counting()(image[None])[0].numpy().astype(np.float16)
            name = f"clip_tokens.{variant}.npy" if variant else "clip_tokens.npy"
            np.testing.assert_array_equal(decode_npy(members[name], key), expected)
        assert members["source.txt"].decode() == source(sha256, encoder(), VIEWS)
        assert len(members) == 4


def test_what_is_there_and_intact_is_kept(store):
    task, counting = task_of(store, "a", range(4)), Counting()
    first = embed_shard(store, encoder(counting), task, {})
    again = embed_shard(store, encoder(counting), task, {})
    assert (first.shard, 0, 3 * 4) == (again.shard, again.encoded, counting.count)


@pytest.mark.parametrize("damage", ["cut", "flip", "no index"])
def test_what_is_damaged_is_made_again(store, tmp_path, damage):
    task = task_of(store, "a", range(4))
    made = embed_shard(store, encoder(), task, {})
    tar = tmp_path / made.shard.path
    data = bytearray(tar.read_bytes())
    data[650] ^= 1
    if damage == "no index":
        (tmp_path / made.shard.index).unlink()
    else:
        tar.write_bytes(data if damage == "flip" else data[:3000])
    assert intact_shard(store, made.shard.path) is None
    again = embed_shard(store, encoder(), task, {})
    assert (again.encoded, again.shard) == (4, made.shard)
    assert intact_shard(store, made.shard.path) == made.shard


def plan(encoder, tasks, known=None):
    return without_repeats(tasks, encoder, known or {})


def test_a_picture_that_several_saw_is_encoded_once(store):
    """Oracle: the number of distinct pictures; and targets made without lending."""
    counting = Counting()
    model = encoder(counting)
    numbers = {"a": [0, 1, 2, 1], "b": [3, 2, 0], "c": [3, 5, 2], "d": [6]}
    planned = plan(model, [task_of(store, name, seen) for name, seen in numbers.items()])
    assert [task.level for task in planned] == [0, 1, 2, 0]
    finished = {}
    for task in sorted(planned, key=lambda task: task.level):
        made = embed_shard(store, model, task, finished)
        finished[made.shard.path] = made.shard
        expected = embedding._encoded(store, encoder(), VIEWS, task.samples)
        for row, own in zip(rows_of(store, made.shard).values(), expected, strict=True):
            assert {**row, **own} == row
    assert counting.count == 3 * 6, "0 1 2 3 5 6, with two variants each"


def test_a_changed_picture_alone_is_encoded_again(store):
    task = task_of(store, "a", range(6))
    old = embed_shard(store, encoder(), task, {}).shard
    changed = task_of(store, "a", [0, 1, 2, 9, 4, 5])
    assert shard_path(changed, encoder()) != shard_path(task, encoder())
    known = known_sources(store, set_of(train=(old,)))
    (planned,) = plan(encoder(), [changed], known)
    made = embed_shard(store, encoder(), planned, {old.path: old})
    assert made.encoded == 1
    before, after = rows_of(store, old), rows_of(store, made.shard)
    assert [key for key in before if before[key] != after[key]] == ["a3"]
    fresh = embed_shard(store, encoder(), replace(changed, path="targets/fresh"), {})
    assert rows_of(store, fresh.shard) == after


def test_other_variants_or_weights_have_other_shards(store):
    task = task_of(store, "a", range(2))
    others = [
        shard_path(replace(task, views=replace(VIEWS, count=3)), encoder()),
        shard_path(replace(task, views=replace(VIEWS, seed=4)), encoder()),
        shard_path(replace(task, views=replace(VIEWS, how="development")), encoder()),
        shard_path(task, encoder(digest="cd" * 32)),
    ]
    assert len({shard_path(task, encoder()), *others}) == 5


def test_damaged_old_shards_lend_nothing(store, tmp_path):
    task = task_of(store, "a", range(3))
    old = embed_shard(store, encoder(), task, {}).shard
    known = known_sources(store, set_of(train=(old,)))
    tar = tmp_path / old.path
    tar.write_bytes(bytes(len(tar.read_bytes())))
    assert known_sources(store, set_of(train=(old,))) == {}
    (planned,) = plan(encoder(), [replace(task, path="targets/other")], known)
    assert embed_shard(store, encoder(), planned, {old.path: old}).encoded == 3


def set_of(**splits):
    facts = {"kind": "clip_tokens", "encoder": "quarters", "digest": "ab" * 32, "shape": (4, 3)}
    return Targets(**facts, variants=2, splits=splits)


def test_a_target_that_float16_cannot_hold_is_named(store):
    task = task_of(store, "a", range(2))
    bad = encoder(lambda images: 1e6 * Counting()(images))
    with pytest.raises(DataError, match=r"sample a0: clip_tokens of variant 0 by quarters: larg"):
        embed_shard(store, bad, task, {})


def test_an_unreadable_picture_is_named():
    with pytest.raises(DataError, match=r"sample 7: cannot be read as a picture"):
        encode_views(encoder(), Views(), [b"no picture"], ["sample 7"], [(0, 0)])


def test_shards_stay_within_memory():
    assert samples_per_shard(encoder(), Views()) == 500
    published = encoder(shape=(257, 768))
    assert samples_per_shard(published, Views()) == 500
    assert samples_per_shard(published, Views(count=9)) == 68
    assert samples_per_shard(encoder(shape=(10**6, 768)), Views()) == 1


def test_a_set_by_another_encoder_is_refused():
    check_encoder(set_of(), encoder(), "quarters")
    with pytest.raises(DataError, match=r"'mine': got clip_tokens by quarters with digest abab"):
        check_encoder(set_of(), encoder(digest="cd" * 32), "mine")
    with pytest.raises(DataError, match=r"expected latents by quarters"):
        check_encoder(set_of(), encoder(kind="latents"), "mine")


def test_computed_targets_are_the_stored_ones(tiny_shards):
    """Oracle: embedding the same samples into a shard; asked for in any order and company."""
    store = Store(str(tiny_shards))
    config = DataConfig(url=str(tiny_shards))
    dataset = Dataset(store, read_manifest(store), config, "val")
    computed = computed_targets(dataset, encoder(), VIEWS)
    assert (computed.shape, computed.variants) == ((4, 3), 2)
    requests = [(3, 2), (0, 0), (3, 0), (6, 1), (3, 2)]
    got = computed.read(requests)
    stored = embedding._encoded(store, encoder(), VIEWS, dataset.samples)
    for (i, variant), target in zip(requests, got, strict=True):
        name = f"clip_tokens.{variant}.npy" if variant else "clip_tokens.npy"
        np.testing.assert_array_equal(target, decode_npy(stored[i][name], name))
        assert target.dtype == np.float16
