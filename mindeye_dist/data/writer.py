"""Writer: samples -> shards in the published layout, each with its index.

The tars are made by webdataset's own writer, with fixed times and owners, so the same samples give
the same bytes.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from itertools import islice

from webdataset import TarWriter

from mindeye_dist.data.manifest import Shard
from mindeye_dist.data.shards import write_shard
from mindeye_dist.storage.store import Store

SAMPLES_PER_SHARD = 500
"""As in the published shards."""


def write_shards(
    store: Store,
    stem: str,
    samples: Iterable[tuple[str, dict[str, bytes]]],
    samples_per_shard: int = SAMPLES_PER_SHARD,
    *,
    by_contents: bool = False,
) -> tuple[Shard, ...]:
    """Write samples to `<stem>_0.tar`, `<stem>_1.tar` ... and return their manifest entries.

    Args:
        store: where to.
        stem: path before the shard's number, e.g. "train/train_subj01".
        samples: key and members (suffix to bytes) of each sample, in order.
        samples_per_shard: samples of every shard but the last.
        by_contents: name shards `<stem>_0-<digest of its bytes>.tar`, so that none takes the place
            of another.
    """
    shards: list[Shard] = []
    remaining = iter(samples)
    while chunk := list(islice(remaining, samples_per_shard)):
        data = pack(chunk)
        digest = f"-{hashlib.sha256(data).hexdigest()[:12]}" if by_contents else ""
        shards.append(write_shard(store, f"{stem}_{len(shards)}{digest}.tar", data))
    return tuple(shards)


def pack(samples: Sequence[tuple[str, dict[str, bytes]]]) -> bytes:
    """Return samples as the bytes of one tar."""
    buffer = io.BytesIO()
    writer = TarWriter(buffer, encoder=False, mtime=0)
    for key, members in samples:
        writer.write({"__key__": key, **members})
    writer.close()
    return buffer.getvalue()
