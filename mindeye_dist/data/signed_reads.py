"""Ranges of S3 objects by URLs, each signed once for all reads of its object.

boto builds, signs and parses every request anew, which takes 3 ms of a core; of what is read from a
shard only the range differs, and that is no part of a signature.
"""

import time
from dataclasses import dataclass
from typing import Any

from botocore.awsrequest import AWSRequest

from mindeye_dist.data.reading import UNREADABLE

LIFE, EXPIRES = 900.0, 3600
"""How long a URL is used, and how long it holds (seconds)."""
PARTIAL, TOO_MANY, SERVER_ERROR = 206, 429, 500


@dataclass
class _Signed:
    url: str
    until: float
    answered: bool = False
    refused: bool = False


class SignedReads:
    """Fetches ranges through a file system's own connections.

    What is not answered by bytes, but for a busy server, is asked for again in the file system's
    ordinary way, which knows newer credentials, and what to say. An object that is refused by its
    URL and then had that way is read so from then on.

    Args:
        files: an s3fs file system.
    """

    def __init__(self, files: Any) -> None:
        self._files = files
        self._signed: dict[str, _Signed] = {}

    async def fetch(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes of an object from `start` to `end`.

        Raises:
            Exception: one of `UNREADABLE`; none names the URL, which opens the object to anybody.
        """
        signed = await self._sign(path)
        if not signed.refused:
            try:
                status, data = await self._get(signed.url, start, end)
            except UNREADABLE as error:
                said = str(error).replace(signed.url, signed.url.partition("?")[0])
                raise OSError(f"{path}: {said}") from None
            if status == PARTIAL:
                signed.answered = True
                return data
            if status == TOO_MANY or status >= SERVER_ERROR:
                raise OSError(f"{path}: the server answers {status}")
        whole: bytes = await self._files._cat_file(path, start=start, end=end)
        if not signed.answered:
            signed.refused = True
        elif self._signed.get(path) is signed:
            del self._signed[path]
        return whole

    async def _sign(self, path: str) -> _Signed:
        signed = self._signed.get(path)
        if signed is None or (signed.until < time.monotonic() and not signed.refused):
            url = await self._files._url(path, expires=EXPIRES)
            signed = self._signed[path] = _Signed(url, time.monotonic() + LIFE)
        return signed

    async def _get(self, url: str, start: int, end: int) -> tuple[int, bytes]:
        client = await self._files.set_session()
        request = AWSRequest("GET", url, headers={"Range": f"bytes={start}-{end - 1}"})
        answer = await client._endpoint.http_session.send(request.prepare())
        return answer.status_code, await answer.content
