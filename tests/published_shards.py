"""Not a test: shards as they were published, written by webdataset, with whole-brain volumes."""

import io
import json

import numpy as np
from webdataset import TarWriter

from mindeye_dist.storage import npy

INTEGER_TIME, FRACTIONAL_TIME = 1_684_000_000, 1_684_000_000.25
"""Times of members; webdataset notes the time of writing, which takes two more blocks a header."""


def sample(number, num_voxels, wholebrain):
    """Return the members of one sample; `wholebrain` is the shape of its volume."""
    generator = np.random.default_rng(number)
    return {
        "jpg": generator.bytes(20_000 + number),
        "nsdgeneral.npy": npy.encode(
            generator.standard_normal((3, num_voxels), np.float32).astype(np.float16)
        ),
        "wholebrain_3d.npy": npy.encode(np.full((3, *wholebrain), number, np.float16)),
        "coco73k.npy": npy.encode(np.array(number)),
        "trial.npy": npy.encode(np.array(number)),
        "num_uniques.npy": npy.encode(np.array(1 + number % 3)),
    }


def pack(samples, mtime=FRACTIONAL_TIME):
    """Return a tar of samples: pairs of key and members."""
    buffer = io.BytesIO()
    writer = TarWriter(buffer, encoder=False, mtime=mtime)
    for key, members in samples:
        writer.write({"__key__": key, **members})
    writer.close()
    return buffer.getvalue()


def write_published(
    store, subject, counts, *, num_voxels=40, wholebrain=(5, 6, 7), mtime=FRACTIONAL_TIME
):
    """Write a subject, `counts` being the samples of each shard of each split; return them all.

    The result is {path: {key: {suffix: bytes}}}.
    """
    written, number = {}, 0
    for split, shards in counts.items():
        for shard, count in enumerate(shards):
            samples = {
                f"sample{n:08d}": sample(n, num_voxels, wholebrain)
                for n in range(number, number + count)
            }
            number += count
            path = f"{split}/{split}_{subject}_{shard}.tar"
            store.write(path, pack(samples.items(), mtime))
            written[path] = samples
    totals = {split: sum(shards) for split, shards in counts.items()}
    store.write(f"metadata_{subject}.json", json.dumps({"totals": totals}).encode())
    return written
