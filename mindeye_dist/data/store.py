"""Bytes by URL: local folders and s3:// prefixes through the same few calls.

Everything is addressed by a path relative to the store's root. S3 credentials, region and endpoint
come from where boto users keep them (environment, ~/.aws); nothing here knows them.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import fsspec
from botocore.exceptions import BotoCoreError
from fsspec.implementations.local import LocalFileSystem

Range = tuple[str, int, int]
"""Path, first byte, and the byte after the last."""

LONGEST_READ = 2**20
LONGEST_AHEAD = 4096
_UNREADABLE = (OSError, BotoCoreError)


class DataError(Exception):
    """Data that cannot be had or is not as it should be; names URL, subject, shard, key, offset."""


class Store:
    """A folder or bucket prefix.

    Attributes:
        retries: members that had to be read again.

    Raises:
        DataError: from every method, naming the URL, when the bytes cannot be had.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.retries = 0
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError, *_UNREADABLE) as error:
            raise DataError(f"{url}: {error}") from error

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder of this machine."""
        return isinstance(self._files, LocalFileSystem)

    def locate(self, path: str) -> str:
        """Return the full URL of a path, for messages."""
        return f"{self.url}/{path}"

    def exists(self, path: str) -> bool:
        """Return whether there is a file at the path."""
        try:
            return bool(self._files.exists(f"{self._root}/{path}"))
        except _UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be reached: {error}") from error

    def read(self, path: str) -> bytes:
        """Return a whole file."""
        try:
            data: bytes = self._files.cat_file(f"{self._root}/{path}")
        except _UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be read: {error}") from error
        return data

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return several byte ranges, fetched at the same time where the store is remote."""
        if not ranges:
            return []
        paths, starts, ends = zip(*ranges, strict=True)
        full = [f"{self._root}/{path}" for path in paths]
        # "return" gives errors in the place of bytes, so that the path at fault can be named.
        parts: list[bytes] = self._files.cat_ranges(
            full, list(starts), list(ends), on_error="return"
        )
        for path, part in zip(paths, parts, strict=True):
            if isinstance(part, _UNREADABLE):
                raise DataError(f"{self.locate(path)}: cannot be read: {part}") from part
            if isinstance(part, Exception):
                raise part
        return parts

    def size(self, path: str) -> int:
        """Return the number of bytes of a file."""
        try:
            size: int = self._files.info(f"{self._root}/{path}", refresh=True)["size"]
        except _UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be read: {error}") from error
        return size

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none where there is no such folder."""
        try:
            paths = self._files.ls(f"{self._root}/{folder}", detail=False, refresh=True)
        except FileNotFoundError:  # a folder of S3 is there as long as something is in it
            return []
        except _UNREADABLE as error:
            raise DataError(f"{self.locate(folder)}: cannot be listed: {error}") from error
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def open(self, path: str) -> "RangeFile":
        """Return a file to read here and there, of which only what is read is fetched."""
        return RangeFile(self, path)

    def copy(self, path: str, target: Path) -> None:
        """Copy a whole file to this machine, without holding it in memory."""
        try:
            self._files.get_file(f"{self._root}/{path}", str(target))
        except _UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be copied: {error}") from error

    def delete(self, path: str) -> None:
        """Delete a file where there is one."""
        try:
            if self._files.exists(f"{self._root}/{path}"):
                self._files.rm_file(f"{self._root}/{path}")
        except _UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be deleted: {error}") from error

    def delete_folder(self, path: str) -> None:
        """Delete a folder with all that is in it, where there is one."""
        try:
            if self._files.exists(f"{self._root}/{path}"):
                self._files.rm(f"{self._root}/{path}", recursive=True)
        except _UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be deleted: {error}") from error

    def upload(self, source: Path, path: str) -> None:
        """Write a whole file from one of this machine, without holding it in memory."""
        target = f"{self._root}/{path}"
        try:
            if self.is_local:
                os.makedirs(os.path.dirname(target), exist_ok=True)
            self._files.put_file(str(source), target)
        except _UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be written: {error}") from error

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file; a local one appears at once or not at all."""
        target = f"{self._root}/{path}"
        try:
            if not self.is_local:
                self._files.pipe_file(target, data)
                return
            os.makedirs(os.path.dirname(target), exist_ok=True)
            partial = f"{target}.part{os.getpid()}"
            with open(partial, "wb") as file:
                file.write(data)
            os.replace(partial, target)
        except _UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be written: {error}") from error


class RangeFile(io.RawIOBase):
    """A file of a store for `tarfile` to read headers from: only what is read is fetched.

    What `tarfile` reads between two jumps is a header, of one block or, extended, of three; the
    next one will be as long and is fetched at once.

    Raises:
        DataError: from construction and reads, when the bytes cannot be had.
    """

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path
        self._size = store.size(path)
        self._position = 0
        self._jumped_to = 0
        self._read_to = 0
        self._ahead = 0
        self._start = 0
        self._piece = b""

    def tell(self) -> int:
        """Return the position (bytes)."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, without fetching anything."""
        self._position = offset + (self._size if whence == os.SEEK_END else 0)
        return self._position

    def read(self, count: int = LONGEST_READ, /) -> bytes:
        """Return the next bytes, at most `LONGEST_READ`, as a corrupt header may ask for any."""
        first = self._position
        last = min(first + min(count, LONGEST_READ), self._size)
        if last <= first:
            return b""
        if first != self._read_to:
            self._ahead = min(self._read_to - self._jumped_to, LONGEST_AHEAD)
            self._jumped_to = first
        if not self._start <= first <= last <= self._start + len(self._piece):
            stop = min(max(last, self._jumped_to + self._ahead), self._size)
            piece = self._store.read_ranges([(self._path, first, stop)])[0]
            if len(piece) != stop - first:
                raise DataError(
                    f"{self._store.locate(self._path)}: got {len(piece)} bytes at byte {first}, "
                    f"expected {stop - first}"
                )
            self._start, self._piece = first, piece
        self._read_to = last
        self._position = last
        return self._piece[first - self._start : last - self._start]
