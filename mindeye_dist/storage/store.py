"""Bytes by URL: local folders and s3:// prefixes through the same few calls.

Paths are relative to the store's root. S3 credentials, region and endpoint come from boto's usual
places (environment, ~/.aws). Temporary failures are retried (ranges.py).
"""

import io
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.implementations.local import LocalFileSystem

from mindeye_dist.errors import DataError
from mindeye_dist.storage.disk_cache import DiskCache
from mindeye_dist.storage.open_files import OpenFiles
from mindeye_dist.storage.ranges import ONCE, UNREADABLE, Counts, Joined, Range, Reader, join, tried
from mindeye_dist.storage.signed_urls import SignedReads

LONGEST_READ = 2**20
LONGEST_AHEAD = 4096
PIECE, PIECES = 8 * 2**20, 8
"""Size of a piece of a large file in bytes, and number of pieces fetched concurrently."""


def explain(error: BaseException) -> str:
    """Return the error's message, with a hint where the message alone is cryptic."""
    if isinstance(error, FileNotFoundError) and "/" in str(error) and " " not in str(error):
        return "there is no such object"
    if isinstance(error, PermissionError) and error.errno is None:
        return f"{error}; are credentials and AWS_ENDPOINT_URL those of this store?"
    return str(error)


class Store:
    """A folder or bucket prefix.

    Args:
        url: folder or s3:// prefix.
        cache: disk cache for members of a remote store.

    Attributes:
        counts: counts of the requests so far.

    Raises:
        DataError: from every method, naming the URL, if bytes cannot be read or written.
    """

    def __init__(self, url: str, cache: DiskCache | None = None) -> None:
        self.url = url.rstrip("/")
        self.counts = Counts()
        options = {"config_kwargs": ONCE} if self.url.startswith("s3://") else {}
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url, **options)
            # A file of many parts is not to be sent anew for one of them: boto tries each again.
            # And what sends has connections of its own, so that reading does not wait for them.
            self._sending, _ = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError, *UNREADABLE) as error:
            raise DataError(f"{url}: {error}") from error
        self.cache = None if self.is_local else cache
        self._open_files = OpenFiles()
        if options:
            self._files.retries = 1
        if isinstance(self._files, AsyncFileSystem):
            signed = SignedReads(self._files, self.counts)
            self._reader = Reader(signed.fetch if options else self._files._cat_file, self.counts)

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
            return bool(self._do("exists", path))
        except UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be reached: {error}") from error

    def read(self, path: str) -> bytes:
        """Return a whole file."""
        try:
            data: bytes = self._do("cat_file", path)
        except UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be read: {explain(error)}") from error
        return data

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return several byte ranges, fetched at the same time where the store is remote."""
        full = [(f"{self._root}/{path}", start, end) for path, start, end in ranges]
        if not isinstance(self._files, AsyncFileSystem):
            return self._read_from_folder(full)
        parts: list[bytes | BaseException] = sync(self._files.loop, self._reader.read, full)
        whole: list[bytes] = []
        for (path, start, _), part in zip(ranges, parts, strict=True):
            if isinstance(part, UNREADABLE):
                where = f"{self.locate(path)}: byte {start}"
                raise DataError(f"{where}: cannot be read: {part}") from part
            if isinstance(part, BaseException):
                raise part
            whole.append(part)
        return whole

    def _read_from_folder(self, ranges: Sequence[Range]) -> list[bytes]:
        parts = [b""] * len(ranges)
        for joined in join(ranges):
            try:
                piece = self._read_one(joined)
            except UNREADABLE as error:
                path = joined.path.removeprefix(f"{self._root}/")
                where = f"{self.locate(path)}: byte {joined.start}"
                raise DataError(f"{where}: cannot be read: {error}") from error
            for number in joined.members:
                _, start, end = ranges[number]
                parts[number] = piece[start - joined.start : end - joined.start]
        return parts

    def _read_one(self, joined: Joined) -> bytes:
        if not self.is_local:
            with self._files.open(joined.path, "rb") as file:
                file.seek(joined.start)
                piece: bytes = file.read(joined.end - joined.start)
            return piece
        number = os.open(joined.path, os.O_RDONLY)  # a file object takes as long as the reading
        try:
            return os.pread(number, joined.end - joined.start, joined.start)
        finally:
            os.close(number)

    def read_into(self, path: str, start: int, places: Sequence[Any]) -> int:
        """Read a file of a folder from a byte on into memory; return how many bytes there were.

        It is the file that was there when it was first read from here: if it was replaced, what its
        index says is of the old one.
        """
        try:
            return self._open_files.read_into(f"{self._root}/{path}", start, places)
        except OSError:  # the caller reads it in another way, which reports the error
            return 0

    def forget_files(self) -> None:
        """Close the open files of a folder, so that the next read opens them anew."""
        self._open_files.forget()

    def _do(self, action: str, path: str, *more: Any, **how: Any) -> Any:
        """Return the result of an action of the file system, with retries if it is remote."""
        full = f"{self._root}/{path}"
        if not isinstance(self._files, AsyncFileSystem):
            return getattr(self._files, action)(full, *more, **how)
        return self._remotely(getattr(self._files, f"_{action}"), full, *more, **how)

    def _remotely(self, method: Callable[..., Awaitable[Any]], *given: Any, **how: Any) -> Any:
        async def once() -> Any:
            self.counts.requests += 1
            return await method(*given, **how)

        return sync(self._files.loop, tried, once, self.counts)

    def size(self, path: str) -> int:
        """Return the number of bytes of a file."""
        try:
            size: int = self._do("info", path, refresh=True)["size"]
        except UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be read: {error}") from error
        return size

    def names(self, folder: str) -> list[str]:
        """Return the sorted names in a folder; an empty list if there is no such folder."""
        try:
            paths = self._do("ls", folder, detail=False, refresh=True)
        except FileNotFoundError:  # a folder of S3 exists only while it has content
            return []
        except UNREADABLE as error:
            raise DataError(f"{self.locate(folder)}: cannot be listed: {error}") from error
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def open(self, path: str) -> "RangeFile":
        """Return a file for random access, of which only the bytes read are fetched."""
        return RangeFile(self, path)

    def copy(self, path: str, target: Path) -> None:
        """Copy a file to the local disk, piece by piece.

        Raises:
            OSError: the local file cannot be written.
        """
        size = self.size(path)
        with target.open("wb") as file:
            for first in range(0, size, PIECES * PIECE):
                starts = range(first, min(first + PIECES * PIECE, size), PIECE)
                for data in self.read_ranges([(path, s, min(s + PIECE, size)) for s in starts]):
                    file.write(data)
            if file.tell() != size:
                got = f"got {file.tell()} bytes, expected {size}"
                raise DataError(f"{self.locate(path)}: {got}")

    def delete(self, path: str) -> None:
        """Delete a file if it exists."""
        try:
            if self._do("exists", path):
                self._do("rm_file", path)
        except UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be deleted: {error}") from error

    def delete_folder(self, path: str) -> None:
        """Delete a folder and its content if it exists."""
        try:
            if self._do("exists", path):
                self._do("rm", path, recursive=True)
        except UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be deleted: {error}") from error

    def upload(self, source: Path, path: str) -> None:
        """Copy a local file to the store, a few pieces in memory at a time."""
        target = f"{self._root}/{path}"
        try:
            if self.is_local:
                os.makedirs(os.path.dirname(target), exist_ok=True)
            if isinstance(self._files, AsyncFileSystem):
                self._remotely(self._sending._put_file, str(source), target)
            else:
                self._files.put_file(str(source), target)
        except UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be written: {error}") from error

    def write(self, path: str, data: bytes) -> None:
        """Write a file; a local file appears whole or not at all."""
        target = f"{self._root}/{path}"
        try:
            if not self.is_local:
                self._do("pipe_file", path, data)
                return
            os.makedirs(os.path.dirname(target), exist_ok=True)
            partial = f"{target}.part{os.getpid()}"
            with open(partial, "wb") as file:
                file.write(data)
            os.replace(partial, target)
        except UNREADABLE as error:
            raise DataError(f"{self.locate(path)}: cannot be written: {error}") from error


class RangeFile(io.RawIOBase):
    """A file of a store from which `tarfile` reads headers: only the bytes read are fetched.

    Between two seeks, `tarfile` reads a header of one block, or of three if it is extended. The
    next header is assumed to be as long and is fetched in one request.

    Raises:
        DataError: from construction and reads, if the bytes cannot be read.
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
