"""Not a test: how a copy of the tiny subject is damaged, on disk, one member at a time."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np

from mindeye_dist.config import DataConfig, TrainingConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.loader import TrainLoader
from mindeye_dist.data.manifest import read_manifest, write_manifest
from mindeye_dist.data.shards import write_shard
from mindeye_dist.storage.store import Store
from tests.remote_shards import copy


def open_dataset(folder, split="train", kinds=("clip_tokens",), **changes):
    """Return a split of a tiny subject, and its config."""
    config = DataConfig(**{"url": str(folder), "targets": "tiny-clip_tokens", **changes})
    store = Store(config.url)
    sets = {kind: f"tiny-{kind}" for kind in kinds} | {"clip_tokens": config.targets}
    return Dataset(store, read_manifest(store), config, split, sets), config


def open_loader(folder, batch=6, seed=1, split="train", kinds=("clip_tokens",), **changes):
    """Return a loader of a tiny subject."""
    dataset, config = open_dataset(folder, split, kinds, **changes)
    training = TrainingConfig(global_batch_size=batch, seed=seed)
    return TrainLoader(dataset, config, training)


def in_memory(folder):
    """Copy a folder to a store that is none, whose samples are kept as a bucket's are."""
    url = f"memory://{uuid4().hex}"
    copy(Path(folder), Store(url))
    return url


def member_offset(folder, suffix, position=2):
    """Return where a sample's member lies: file, key and member."""
    dataset, _ = open_dataset(folder)
    sample = dataset.samples[position]
    return folder / sample.shard, sample.key, sample.members[suffix]


def target_offset(folder, suffix, position=2):
    """Return where a member of a sample's clip_tokens lies: file, key and member."""
    dataset, _ = open_dataset(folder)
    sample = dataset.sources["clip_tokens"]._samples[position]
    return folder / sample.shard, sample.key, sample.members[suffix]


def overwrite(path, offset, data):
    """Overwrite bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def overwrite_last(path, member, value):
    """Give the last number of a float16 member another value."""
    overwrite(path, member.offset + member.size - 2, np.array(value, np.float16).tobytes())


def flip(path, member):
    """Flip the last bit of a member."""
    last = member.offset + member.size - 1
    overwrite(path, last, bytes([path.read_bytes()[last] ^ 1]))


def reindex(folder, path):
    """Make index and manifest agree with a changed tar, as if it had been written so."""
    store = Store(str(folder))
    manifest = read_manifest(store)
    subject = manifest.subjects["subj01"]
    relative = str(path.relative_to(folder))

    def anew(splits):
        return {
            split: tuple(
                write_shard(store, relative, path.read_bytes()) if shard.path == relative else shard
                for shard in shards
            )
            for split, shards in splits.items()
        }

    targets = {k: replace(t, splits=anew(t.splits)) for k, t in subject.targets.items()}
    changed = replace(subject, splits=anew(subject.splits), targets=targets)
    write_manifest(store, replace(manifest, subjects={"subj01": changed}))
