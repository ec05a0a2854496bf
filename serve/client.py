"""A thin client: voxels in, the service's answers out, typed; needs neither Ray nor torch.

Calls are functions of what is sent, so a call whose connection or replica was lost, or that came
while the service was busy, is repeated, after the time that the service asks for.
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
    Embedding,
    ModelCard,
    PictureFormat,
    Reconstruction,
    Retrieval,
    Task,
)

NPY = {"Content-Type": "application/x-npy"}
REPEATED = (429, 500, 502, 503)
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Before a call is repeated, where the service does not say (seconds)."""
Reply = TypeVar("Reply", bound=BaseModel)
Brain = Float[np.ndarray, " voxels"] | Float[np.ndarray, "repeats voxels"]


class ServiceError(Exception):
    """The service refused a request: its status, its words, and the request's id."""

    def __init__(self, status: int, error: str, request_id: str) -> None:
        super().__init__(f"{status}: {error} (request {request_id})")
        self.status, self.error, self.request_id = status, error, request_id


class Client:
    """One service.

    Args:
        url: of the service, such as http://127.0.0.1:8000.
        token: that may ask.
        timeout_s: for a connection, and for each answer; above the service's own, or what is
            still being computed is asked for again.
        retries: of one call.

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
        patience = Retry(
            retries,
            status_forcelist=REPEATED,
            allowed_methods=None,
            backoff_factor=FIRST_WAIT,
            backoff_jitter=FIRST_WAIT,
            backoff_max=LONGEST_WAIT,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=patience))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def model(self) -> ModelCard:
        """Return what is served."""
        return self._typed(ModelCard, self._send("GET", "/v1/model"))

    def embed(self, voxels: Brain) -> Embedding:
        """Return the embedding of one brain, of unit norm."""
        return self._typed(Embedding, self._post("/v1/embed", voxels))

    def retrieve(self, voxels: Brain, k: int = 5, pictures: PictureFormat = "none") -> Retrieval:
        """Return the gallery's nearest pictures."""
        found = self._post("/v1/retrieve", voxels, k=k, pictures=pictures)
        return self._typed(Retrieval, found)

    def reconstruct(
        self, voxels: Brain, candidates: int = 0, pictures: PictureFormat = "png"
    ) -> Reconstruction:
        """Return drawn pictures, and which of them is the best."""
        drawn = self._post("/v1/reconstruct", voxels, candidates=candidates, pictures=pictures)
        return self._typed(Reconstruction, drawn)

    def batch(
        self, voxels: Float[np.ndarray, "brains ..."], task: Task, **settings: Any
    ) -> Iterator[BatchLine]:
        """Yield the answers to many brains as they are finished.

        Args:
            voxels: (brains, voxels) or (brains, repeats, voxels).
            task: what is asked of each.
            settings: `k`, `candidates` and `pictures`, as for single brains.
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
        # Half precision stays half as large; anything else goes as single.
        numbers = voxels if voxels.dtype == np.float16 else voxels.astype(np.float32)
        body = npy.encode(np.ascontiguousarray(numbers))
        return self._send("POST", path, data=body, headers=NPY, params=settings, stream=stream)

    def _send(self, method: str, path: str, **what: Any) -> requests.Response:
        reply = self._whole(method, path, **what)
        if reply.ok:
            return reply
        try:
            said = reply.json()
        except requests.JSONDecodeError:
            said = {}
        known = said if isinstance(said, dict) else {}
        raise ServiceError(
            reply.status_code,
            str(known.get("error", reply.reason)),
            str(known.get("request_id", "")),
        )

    def _whole(self, method: str, path: str, **what: Any) -> requests.Response:
        # urllib3 repeats no call whose answer breaks off in its body, as that of a lost replica
        # does.
        url = self._url + path
        for attempt in range(self._retries):
            try:
                return self._session.request(method, url, timeout=self._timeout, **what)
            except ChunkedEncodingError:
                time.sleep(min(FIRST_WAIT * 2**attempt, LONGEST_WAIT))
        return self._session.request(method, url, timeout=self._timeout, **what)

    @staticmethod
    def _typed(kind: type[Reply], reply: requests.Response) -> Reply:
        return kind.model_validate_json(reply.content)
