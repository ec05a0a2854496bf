"""Presigned URLs: ranges of S3 objects through one URL for all reads of an object for a while.

boto builds, signs and parses each request, which takes 3 ms of a core. Reads of a shard differ only
in their range, which is not part of a signature.
"""

import re
import time
from dataclasses import dataclass
from typing import Any

from botocore.awsrequest import AWSRequest

from mindeye_dist.storage.ranges import UNREADABLE, Counts

LIFE, EXPIRES = 900.0, 1200
"""Time for which a URL is used, and time for which it is valid, in seconds."""
REFUSED = 60.0
"""Time for which an object is read without a URL after a refusal, in seconds."""
FAILURES = 3
"""Server errors, before a signed URL's first success, after which the URL counts as refused."""
PARTIAL, MENDED_BY_WAITING, SERVER_ERROR = 206, (408, 429), 500


@dataclass
class _Signed:
    url: str
    until: float
    answered: bool = False
    failures: int = 0
    refused: bool = False

    def refuse(self) -> None:
        """Read the object without a URL for a while."""
        self.refused, self.until = True, time.monotonic() + REFUSED


class SignedReads:
    """Fetcher of ranges by presigned URLs, over a file system's own connections.

    If a URL does not return bytes, the object is read in the file system's ordinary way, which has
    newer credentials, other endpoints and clear errors. After a URL has succeeded once, temporary
    errors are left to the caller's retries.

    Args:
        files: an s3fs file system.
        counts: counts the ordinary requests that follow a failed URL.
    """

    def __init__(self, files: Any, counts: Counts) -> None:
        self._files, self._counts = files, counts
        self._signed: dict[str, _Signed] = {}

    async def fetch(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes of an object from `start` to `end`.

        Raises:
            Exception: one of `UNREADABLE`, without the URL's signature, with which anybody could
                read the object.
        """
        signed = await self._sign(path)
        if not signed.refused:
            if (data := await self._by_url(path, signed, start, end)) is not None:
                return data
            self._counts.requests += 1
        whole: bytes = await self._files._cat_file(path, start=start, end=end)
        return whole

    async def _by_url(self, path: str, signed: _Signed, start: int, end: int) -> bytes | None:
        """Return the bytes, or none where they are to be had in the ordinary way."""
        try:
            status, data = await self._get(signed.url, start, end)
        except UNREADABLE as error:
            said = without_queries(str(error))
        else:
            if status == PARTIAL:
                signed.answered = True
                return data
            if status < SERVER_ERROR and status not in MENDED_BY_WAITING:
                signed.refuse()
                return None
            said = f"the server answers {status}"
        if signed.answered:
            raise OSError(f"{path}: {said}")
        signed.failures += 1
        if signed.failures >= FAILURES:
            signed.refuse()
        return None

    async def _sign(self, path: str) -> _Signed:
        signed = self._signed.get(path)
        if signed is None or signed.until < time.monotonic():
            sign_as_sent(await self._files.set_session())
            url = await self._files._url(path, expires=EXPIRES)
            signed = self._signed[path] = _Signed(url, time.monotonic() + LIFE)
        return signed

    async def _get(self, url: str, start: int, end: int) -> tuple[int, bytes]:
        client = await self._files.set_session()
        request = AWSRequest("GET", url, headers={"Range": f"bytes={start}-{end - 1}"})
        answer = await client._endpoint.http_session.send(request.prepare())
        return answer.status_code, await answer.content


def sign_as_sent(client: Any) -> None:
    """Have a client's URLs go where its requests go, and be signed as these are.

    boto's go to the endpoint of all regions and are signed in an older way, both for the sake of
    who made them years ago.
    """
    events = client.meta.events
    events.register("provide-client-params.s3.GetObject", _to_its_region, "mindeye region")
    events.register("choose-signer.s3.GetObject", _by_version_4, "mindeye signer")


def _to_its_region(context: dict[str, Any], **_: Any) -> None:
    if "use_global_endpoint" in context:
        context["use_global_endpoint"] = False


def _by_version_4(signature_version: Any, **_: Any) -> str | None:
    return "s3v4-query" if signature_version in ("v4-query", "s3v4-query") else None


def without_queries(text: str) -> str:
    """Return a text without what follows the ? of URLs."""
    return re.sub(r"\?[^\s'\"]*", "", text)
