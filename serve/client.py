"""Python client of the service: voxels in, typed answers out; needs neither Ray nor torch.

An answer depends on its request alone, so a call is repeated if its connection or replica was lost
or the service was busy, after the delay that the service names.
"""

import time
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import requests
from jaxtyping import Float
from pydantic import BaseModel
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError
from urllib3.util.retry import Retry

from mindeye_dist.storage import npy
from serve.schema import (
    BatchLine,
    BatchTask,
    Embedding,
    ModelCard,
    PictureFormat,
    Reconstruction,
    Retrieval,
)

NPY = {"Content-Type": "application/x-npy"}
RETRIED_STATUSES = (429, 500, 502, 503)
FIRST_DELAY, MAX_DELAY = 0.1, 5.0
"""First and longest delay before a retry, in seconds, unless the service names one."""
Reply = TypeVar("Reply", bound=BaseModel)
Brain = Float[np.ndarray, " voxels"] | Float[np.ndarray, "repeats voxels"]


class ServiceError(Exception):
    """A refusal by the service: HTTP status, error message and the request's id."""

    def __init__(self, status: int, error: str, request_id: str) -> None:
        super().__init__(f"{status}: {error} (request {request_id})")
        self.status, self.error, self.request_id = status, error, request_id


class Client:
    """Client of one service.

    Args:
        url: address of the service, such as http://127.0.0.1:8000.
        token: bearer token of the service.
        timeout_s: time limit of a connection and of each answer, in seconds. Must exceed the
            service's own limit, or answers still in computation are requested again.
        retries: maximum number of retries of one call.

    Raises:
        ServiceError: from every method, when a request is refused.
        requests.RequestException: from every method, when the service cannot be reached.
    """

    def __init__(
        self, url: str, token: str = "", timeout_s: float = 180.0, retries: int = 8
    ) -> None:
        self._url, self._timeout, self._retries = url.rstrip("/"), timeout_s, retries
        self._session = requests.Session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        retry = Retry(
            retries,
            status_forcelist=RETRIED_STATUSES,
            allowed_methods=None,
            backoff_factor=FIRST_DELAY,
            backoff_jitter=FIRST_DELAY,
            backoff_max=MAX_DELAY,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def model(self) -> ModelCard:
        """Return the model card."""
        return self._parse(ModelCard, self._send("GET", "/v1/model"))

    def embed(self, voxels: Brain) -> Embedding:
        """Return the embedding of one brain, of unit norm."""
        return self._parse(Embedding, self._post("/v1/embed", voxels))

    def retrieve(self, voxels: Brain, k: int = 5, pictures: PictureFormat = "none") -> Retrieval:
        """Return the gallery's k nearest pictures."""
        reply = self._post("/v1/retrieve", voxels, k=k, pictures=pictures)
        return self._parse(Retrieval, reply)

    def reconstruct(
        self, voxels: Brain, candidates: int = 0, pictures: PictureFormat = "png"
    ) -> Reconstruction:
        """Return drawn pictures, one of them chosen; 0 candidates draw the service's maximum."""
        reply = self._post("/v1/reconstruct", voxels, candidates=candidates, pictures=pictures)
        return self._parse(Reconstruction, reply)

    def batch(
        self, voxels: Float[np.ndarray, "brains ..."], task: BatchTask, **settings: Any
    ) -> Iterator[BatchLine]:
        """Yield the answers to many brains as they are finished, in any order.

        Args:
            voxels: (brains, voxels) or (brains, repeats, voxels).
            task: route to answer for each brain.
            settings: `k`, `candidates` and `pictures`, as for single brains.

        Raises:
            ServiceError: also if the number of answers is not that of the brains.
        """
        count = 0
        with self._post("/v1/batch", voxels, stream=True, task=task, **settings) as reply:
            for line in reply.iter_lines():
                yield BatchLine.model_validate_json(line)
                count += 1
        if count != len(voxels):
            raise ServiceError(502, f"got {count} answers to {len(voxels)} brains", "")

    def _post(
        self, path: str, voxels: np.ndarray, *, stream: bool = False, **settings: Any
    ) -> requests.Response:
        # float16 is sent as it is, half as large; anything else as float32.
        numbers = voxels if voxels.dtype == np.float16 else voxels.astype(np.float32)
        body = npy.encode(np.ascontiguousarray(numbers))
        return self._send("POST", path, data=body, headers=NPY, params=settings, stream=stream)

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        reply = self._request(method, path, **options)
        if reply.ok:
            return reply
        try:
            content = reply.json()
        except requests.JSONDecodeError:
            content = {}
        problem = content if isinstance(content, dict) else {}
        raise ServiceError(
            reply.status_code,
            str(problem.get("error", reply.reason)),
            str(problem.get("request_id", "")),
        )

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        # A replica that dies breaks off the answer's body, and urllib3 does not retry that.
        url = self._url + path
        for attempt in range(self._retries):
            try:
                return self._session.request(method, url, timeout=self._timeout, **options)
            except ChunkedEncodingError:
                time.sleep(min(FIRST_DELAY * 2**attempt, MAX_DELAY))
        return self._session.request(method, url, timeout=self._timeout, **options)

    @staticmethod
    def _parse(kind: type[Reply], reply: requests.Response) -> Reply:
        return kind.model_validate_json(reply.content)
