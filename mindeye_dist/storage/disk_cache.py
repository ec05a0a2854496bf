"""Disk cache: members of remote shards on the local disk, least recently used deleted first.

Processes of a machine may share the folder. A file is named by its member's checksum and size, so
that a rewritten shard has other files. Cached bytes are verified like those from the network.
"""

import contextlib
import os
from pathlib import Path
from threading import Lock, get_ident

from mindeye_dist.errors import InputError

ROOM_LEFT = 0.9
"""Share of the limit to which a deletion goes down, so that not every new file deletes."""
COUNTED_AFTER = 1 / 64
"""Share of the limit that a process writes before it counts the files of all processes again."""


class DiskCache:
    """A folder of at most `max_bytes` of members, plus a 64th of that for each process.

    Raises:
        InputError: on construction, if the folder cannot be made or read.
    """

    def __init__(self, folder: str, max_bytes: int) -> None:
        self._folder, self._max_bytes = Path(folder), max_bytes
        self._lock = Lock()
        self._uncounted = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room()
        except OSError as error:
            raise InputError(f"data.disk_cache: {folder} cannot be used: {error}") from error

    def get(self, checksum: str, size: int) -> bytes | None:
        """Return a member's bytes, not verified; None if it is not cached."""
        path = self._path(checksum, size)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:  # another process may have deleted it
            return None
        return data

    def put(self, checksum: str, size: int, data: bytes) -> None:
        """Keep a member; a disk that is full keeps none."""
        if size > self._max_bytes:
            return
        # What a kill leaves of it is counted and deleted as members are.
        partial = self._folder / f".{os.getpid()}-{get_ident()}"
        try:
            partial.write_bytes(data)
            partial.replace(self._path(checksum, size))
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            return
        with self._lock, contextlib.suppress(OSError):
            self._uncounted += size
            if self._uncounted > COUNTED_AFTER * self._max_bytes:
                self._make_room()

    def _make_room(self) -> None:
        self._uncounted = 0
        files = sorted(self._files(), reverse=True)
        if sum(size for _, size, _ in files) <= self._max_bytes:
            return
        left = 0
        for _, size, path in files:
            left += size
            if left > ROOM_LEFT * self._max_bytes:
                left -= size
                with contextlib.suppress(OSError):
                    os.remove(path)

    def _files(self) -> list[tuple[int, int, str]]:
        """Return when each file was last used (ns), its bytes and its path."""
        found: list[tuple[int, int, str]] = []
        with os.scandir(self._folder) as entries:
            for entry in filter(os.DirEntry.is_file, entries):
                with contextlib.suppress(OSError):
                    about = entry.stat()
                    found.append((about.st_mtime_ns, about.st_size, entry.path))
        return found

    def _path(self, checksum: str, size: int) -> Path:
        return self._folder / f"{checksum}-{size}"
