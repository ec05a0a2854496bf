"""Copies of checkpoints: fetch one from a store, verified; copy a run's checkpoints to a store."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from mindeye_dist.errors import CheckpointError, DataError
from mindeye_dist.runs.checkpoints import (
    MANIFEST,
    Checkpoints,
    checkpoint_name,
    read_progress,
    rename_durably,
    verify,
)
from mindeye_dist.storage.store import Store

log = logging.getLogger(__name__)
DIGITS = 12
PROBE = "can-be-written"


def fetch_checkpoint(url: str, cache: Path) -> Path:
    """Return a local copy of a checkpoint's folder, fetched at most once.

    Args:
        url: URL of the checkpoint's folder.
        cache: local folder of copies, each named by the digest of its manifest.

    Raises:
        CheckpointError: the checkpoint cannot be fetched, or is not whole.
    """
    try:
        store = Store(url)
        manifest = store.read(MANIFEST)
        found = cache / hashlib.sha256(manifest).hexdigest()[:DIGITS]
        if found.exists():
            return found
        cache.mkdir(parents=True, exist_ok=True)
        # An interrupted download must not pass for a whole checkpoint the next time.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            partial = Path(folder, found.name)
            _fetch(store, manifest, partial)
            if not found.exists():  # another process may have been faster
                partial.rename(found)
    except (DataError, OSError) as error:
        raise CheckpointError(f"{url}: no checkpoint can be fetched from it: {error}") from error
    return found


class CheckpointCopies:
    """Copies of a run's checkpoints: `step-*` folders, each whole once its manifest is there.

    Args:
        url: folder or s3:// prefix that holds the copies of one run and nothing else.

    Raises:
        DataError: from every method but `copy`, if the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        self._deleted: set[str] = set()

    def check_writable(self) -> None:
        """Check that the store can be written to: a bucket that does not exist lists as empty."""
        self._store.write(PROBE, b"")
        self._store.delete(PROBE)

    def names(self) -> list[str]:
        """Return the names of all copies with a manifest, in the order of their steps."""
        return [name for name in self._folders() if MANIFEST in self._store.names(name)]

    def copy(self, checkpoint: Path, kept: Collection[str]) -> None:
        """Copy a checkpoint, then delete the copies of checkpoints that are not kept.

        A failure is only logged: the checkpoint is on disk, and the next copy is tried.
        """
        name = checkpoint.name
        try:
            self._store.delete(f"{name}/{MANIFEST}")
            for file in sorted(checkpoint.iterdir()):
                if file.name != MANIFEST:
                    self._store.upload(file, f"{name}/{file.name}")
            self._store.write(f"{name}/{MANIFEST}", (checkpoint / MANIFEST).read_bytes())
            self._deleted.discard(name)
            # Some servers still list an empty folder.
            self.delete(set(self._folders()) - set(kept) - self._deleted)
        except (DataError, OSError) as error:
            log.warning("%s: is not copied: %s", checkpoint, error)

    def delete(self, names: Collection[str]) -> None:
        """Delete copies, manifests first: an interrupted deletion leaves none that looks whole."""
        for name in sorted(names):
            self._store.delete(f"{name}/{MANIFEST}")
            self._store.delete_folder(name)
            self._deleted.add(name)

    def fetch(self, checkpoints: Checkpoints) -> None:
        """Fetch the newest good copy, and the best one, if it is newer than any local checkpoint.

        Copies that are not whole are passed over. A copy that cannot be reached raises: a run that
        began anew would delete the copies.

        Raises:
            CheckpointError: there are copies, but neither a copy nor a local checkpoint is good.
            DataError: a copy cannot be reached.
            OSError: the local disk is full.
        """
        names = self.names()
        newest = checkpoints.newest()
        for name in reversed(names):
            if newest is not None and name <= newest.name:
                return
            if self._bring(name, checkpoints.folder):
                best = checkpoint_name(read_progress(checkpoints.folder / name).best_step)
                if best in names and not (checkpoints.folder / best).exists():
                    self._bring(best, checkpoints.folder)
                return
        if names and newest is None:
            raise CheckpointError(f"{self._store.url}: of {len(names)} copies none is whole")

    def _folders(self) -> list[str]:
        return [name for name in self._store.names("") if name.startswith("step-")]

    def _bring(self, name: str, folder: Path) -> bool:
        store = Store(self._store.locate(name))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as temporary:
            partial = Path(temporary, name)
            try:
                _fetch(store, store.read(MANIFEST), partial)
            except CheckpointError as error:
                log.warning("passed over: %s: %s", store.url, error)
                return False
            except DataError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                log.warning("passed over: %s: %s", store.url, error)
                return False
            shutil.rmtree(folder / name, ignore_errors=True)
            rename_durably(partial, folder / name)
        log.warning("fetched %s", store.url)
        return True


def _fetch(store: Store, manifest: bytes, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in _names(manifest, store.url):
        store.copy(name, folder / name)
    (folder / MANIFEST).write_bytes(manifest)
    verify(folder)


def _names(manifest: bytes, url: str) -> list[str]:
    try:
        digests = json.loads(manifest)
    except ValueError as error:
        raise CheckpointError(f"{url}: {MANIFEST} is not JSON: {error}") from error
    if not isinstance(digests, dict):
        raise CheckpointError(f"{url}: {MANIFEST} is not the manifest of a checkpoint")
    # A name is that of a file in the folder, and of nothing else on this machine.
    if outside := [name for name in digests if Path(name).name != name or name in ("", "..", ".")]:
        raise CheckpointError(f"{url}: {MANIFEST} names {outside[0]!r}, expected files beside it")
    return list(digests)
