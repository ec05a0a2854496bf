"""Checkpoints elsewhere: a verified copy of one of them here, and copies of a run's own there."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from mindeye_dist.runs.checkpoints import (
    MANIFEST,
    CheckpointError,
    Checkpoints,
    checkpoint_name,
    read_progress,
    rename_durably,
    verify,
)
from mindeye_dist.storage.store import DataError, Store

log = logging.getLogger(__name__)
DIGITS = 12
PROBE = "can-be-written"


def fetch_checkpoint(url: str, cache: Path) -> Path:
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
            _fetch(store, manifest, partial)
            if not found.exists():  # another process may have been faster
                partial.rename(found)
    except (DataError, OSError) as error:
        raise CheckpointError(f"{url}: no checkpoint can be fetched from it: {error}") from error
    return found


class CheckpointCopies:
    """Copies of a run's checkpoints: `step-*` folders, each whole once its manifest is there.

    Args:
        url: folder or s3:// prefix that holds those of one run and nothing else.

    Raises:
        DataError: from every method but `add`, when it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        self._deleted: set[str] = set()

    def check_writable(self) -> None:
        """See that something can be written there: a bucket that is not there lists as empty."""
        self._store.write(PROBE, b"")
        self._store.delete(PROBE)

    def names(self) -> list[str]:
        """Return the names of all copies that ought to be whole, in the order of their steps."""
        return [name for name in self._folders() if MANIFEST in self._store.names(name)]

    def copy(self, checkpoint: Path, kept: Collection[str]) -> None:
        """Copy a checkpoint, then delete the copies of those that are not kept.

        A failure is only logged: the checkpoint itself is there, and the next one is tried again.
        """
        name = checkpoint.name
        try:
            self._store.delete(f"{name}/{MANIFEST}")
            for file in sorted(checkpoint.iterdir()):
                if file.name != MANIFEST:
                    self._store.upload(file, f"{name}/{file.name}")
            self._store.write(f"{name}/{MANIFEST}", (checkpoint / MANIFEST).read_bytes())
            self._deleted.discard(name)
            # Some servers still list a folder with nothing in it.
            self.delete(set(self._folders()) - set(kept) - self._deleted)
        except (DataError, OSError) as error:
            log.warning("%s: is not copied: %s", checkpoint, error)

    def delete(self, names: Collection[str]) -> None:
        """Delete copies; what is left when that is cut short does not pass for one."""
        for name in sorted(names):
            self._store.delete(f"{name}/{MANIFEST}")
            self._store.delete_folder(name)
            self._deleted.add(name)

    def fetch(self, checkpoints: Checkpoints) -> None:
        """Bring the newest good copy here where it is newer than what is good here.

        With it comes that of the best validation, by its word. Copies that are not whole are passed
        over; not those that cannot be had, as a run that began anew would then delete them.

        Raises:
            CheckpointError: none is good, nor any here.
            OSError: there is no room for it here.
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
