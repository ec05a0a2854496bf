"""A checkpoint that lies elsewhere -> a verified copy of it here, whole or not at all."""

import hashlib
import json
import tempfile
from pathlib import Path

from mindeye_dist.checkpoint import MANIFEST, CheckpointError, verify
from mindeye_dist.data.store import DataError, Store

DIGITS = 12


def copy_checkpoint(url: str, cache: Path) -> Path:
    """Return a local copy of a checkpoint's folder, fetched at most once.

    Args:
        url: of the folder, which has a manifest.json.
        cache: folder of copies, each called by the digest of its manifest.

    Raises:
        CheckpointError: it cannot be fetched, or is not whole.
    """
    try:
        store = Store(url)
        manifest = store.read(MANIFEST)
        found = cache / hashlib.sha256(manifest).hexdigest()[:DIGITS]
        if found.exists():
            return found
        cache.mkdir(parents=True, exist_ok=True)
        # What was cut off in mid-download must not pass for the whole the next time.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            partial = Path(folder, found.name)
            partial.mkdir()
            for name in _names(manifest, url):
                store.copy(name, partial / name)
            (partial / MANIFEST).write_bytes(manifest)
            verify(partial)
            if not found.exists():  # another process may have been faster
                partial.rename(found)
    except (DataError, OSError) as error:
        raise CheckpointError(f"{url}: no checkpoint can be fetched from it: {error}") from error
    return found


def _names(manifest: bytes, url: str) -> list[str]:
    try:
        names = list(json.loads(manifest))
    except ValueError as error:
        raise CheckpointError(f"{url}: {MANIFEST} is not JSON: {error}") from error
    # A name is that of a file in the folder, and of nothing else on this machine.
    if outside := [name for name in names if Path(name).name != name or name in ("", "..", ".")]:
        raise CheckpointError(f"{url}: {MANIFEST} names {outside[0]!r}, expected files beside it")
    return names
