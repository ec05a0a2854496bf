"""The service on Ray Serve: `serve run serve.app:build` or `serve deploy serve/service.yaml`.

Gateway (HTTP, checks, no model) -> Predictor (embeds, retrieves) and Generator (draws). Each
computes what has gathered while it was busy as one batch. Calls are functions of what was sent, so
one whose replica was lost is repeated on another.
"""

import asyncio
import math
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve._private.constants import RAY_SERVE_ENABLE_DIRECT_INGRESS
from ray.serve.config import BackpressureConfig
from ray.serve.context import _get_global_client
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from jobs.on_ray.prometheus import Meters
from jobs.opening.checkpoints import best
from serve.auth import open_tokens
from serve.bodies import RefusedError
from serve.drawer import Drawer
from serve.gateway import Row, make_app
from serve.guard import BUSY, REASONS, Guard, Watch
from serve.prometheus import SERVING
from serve.retriever import Decoder, Embedded
from serve.schema import ModelCard, PictureFormat, Reconstruction, Retrieval, Samples
from serve.served_model import Champion
from serve.settings import ModelScale, Scale, Service, read_settings

Kind = TypeVar("Kind", Decoder, Drawer)
LOST = (RayActorError, ObjectLostError)
TRIES, FIRST_WAIT = 3, 0.1
"""Of a call whose replica was lost: tries in all, and the wait before the second (seconds)."""
FULL = (BackPressureError, DeploymentUnavailableError)
LOGGING = {"encoding": "JSON", "enable_access_log": False}
"""The guard's own lines have nothing of the sender in them."""
EXPORTED = "ray_mindeye_"


class Batches:
    """Computes batches in a thread, so that the replica answers health checks meanwhile."""

    def __init__(self, scale: ModelScale, meters: Meters) -> None:
        torch.set_num_threads(max(1, math.ceil(scale.cpus)))
        self._meters, self._waiting = meters, 0

    async def one(self, task: str, gathered: Callable[..., Any], *arguments: Any) -> Any:
        """Return the answer to one request, which is computed with others."""
        self._count(task, 1)
        try:
            return await gathered(arguments)
        finally:
            self._count(task, -1)

    async def compute(self, task: str, compute: Callable[..., Any], batch: Sequence[Any]) -> Any:
        """Return the answers to a batch."""
        begun = time.perf_counter()
        answers = await asyncio.to_thread(compute, batch)
        self._meters.observe("mindeye_batch_size", len(batch), task=task)
        self._meters.observe("mindeye_compute_seconds", time.perf_counter() - begun, task=task)
        return answers

    def _count(self, task: str, by: int) -> None:
        self._waiting += by
        self._meters.set("mindeye_queue_length", self._waiting, task=task)


class Told:
    """Tells Prometheus how the registry's alias is followed."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        meters.set("mindeye_model_swap_failing", 0)

    def __call__(self, outcome: str) -> None:
        """Take over "ok" or "failed"."""
        self._meters.count("mindeye_model_swaps", outcome=outcome)
        self._meters.set("mindeye_model_swap_failing", float(outcome != "ok"))


def opened(
    settings: Service, scale: ModelScale, kind: type[Kind]
) -> tuple[Batches, Champion[Kind]]:
    """Return what a replica computes with: its batches, and the model that it serves now."""
    meters, device = Meters(SERVING), device_of(settings, scale)
    batches = Batches(scale, meters)
    champion = Champion(
        settings, lambda path, version: kind(settings, path, version, device), Told(meters)
    )
    return batches, champion


def gather(scale: ModelScale, *methods: Any) -> None:
    """Set how many calls of `serve.batch` methods are computed together."""
    for method in methods:
        method.set_max_batch_size(scale.batch)
        method.set_batch_wait_timeout_s(scale.batch_wait_seconds)


@serve.deployment(name="Predictor", logging_config=LOGGING)
class Predictor:
    """Embeds and retrieves."""

    def __init__(self, settings: Service) -> None:
        self._batches, self._champion = opened(settings, settings.predictor, Decoder)
        gather(settings.predictor, self._embed, self._retrieve)

    async def embed(self, voxels: Row) -> Embedded | RefusedError:
        """Return an embedding."""
        return await self._batches.one("embed", self._embed, voxels)

    async def retrieve(
        self, voxels: Row, k: int, pictures: PictureFormat
    ) -> Retrieval | RefusedError:
        """Return the nearest pictures."""
        return await self._batches.one("retrieve", self._retrieve, voxels, k, pictures)

    @serve.batch
    async def _embed(self, batch: list[tuple[Row]]) -> list[Embedded | RefusedError]:
        decoder: Decoder = self._champion.now
        return await self._batches.compute("embed", decoder.embed, [row for (row,) in batch])

    @serve.batch
    async def _retrieve(
        self, batch: list[tuple[Row, int, PictureFormat]]
    ) -> list[Retrieval | RefusedError]:
        return await self._batches.compute("retrieve", self._champion.now.retrieve, batch)

    async def card(self, generator: str, max_candidates: int) -> ModelCard:
        """Return what is served."""
        return self._champion.now.card(generator, max_candidates)

    async def samples(self) -> Samples:
        """Return how many responses there are to try."""
        return self._champion.now.samples()

    async def sample(self, number: int) -> tuple[np.ndarray, bytes] | RefusedError:
        """Return one of them, and the picture that was seen."""
        try:
            return await asyncio.to_thread(self._champion.now.sample, number)
        except RefusedError as refused:
            return refused

    def check_health(self) -> None:
        """Raise where the replica ought to be started anew."""
        self._champion.check_health()


@serve.deployment(name="Generator", logging_config=LOGGING)
class Generator:
    """Draws pictures."""

    def __init__(self, settings: Service) -> None:
        self._batches, self._champion = opened(settings, settings.generator, Drawer)
        gather(settings.generator, self._reconstruct)

    async def reconstruct(
        self, voxels: Row, candidates: int, pictures: PictureFormat
    ) -> Reconstruction | RefusedError:
        """Return drawn pictures."""
        arguments = (voxels, candidates, pictures)
        return await self._batches.one("reconstruct", self._reconstruct, *arguments)

    @serve.batch
    async def _reconstruct(
        self, batch: list[tuple[Row, int, PictureFormat]]
    ) -> list[Reconstruction | RefusedError]:
        drawer: Drawer = self._champion.now
        return await self._batches.compute("reconstruct", drawer.reconstruct, batch)

    async def about(self) -> tuple[str, int]:
        """Return the generator's name, and how many candidates it draws at most."""
        return self._champion.now.generator, self._champion.now.max_candidates

    def check_health(self) -> None:
        """Raise where the replica ought to be started anew."""
        self._champion.check_health()


class RemoteModels:
    """The models of other deployments, as the routes want them."""

    def __init__(
        self, predictor: DeploymentHandle, generator: DeploymentHandle | None, meters: Meters
    ) -> None:
        self._predictor, self._generator, self._meters = predictor, generator, meters
        self._drawn_by: tuple[str, int] | None = None

    async def embed(self, voxels: Row) -> tuple[str, np.ndarray]:
        """Return the model's version, and the embedding."""
        found: Embedded = await self._call(self._predictor, "embed", voxels)
        return found.model, found.embedding

    async def retrieve(self, voxels: Row, k: int, pictures: PictureFormat) -> Retrieval:
        """Return the nearest pictures."""
        found: Retrieval = await self._call(self._predictor, "retrieve", voxels, k, pictures)
        return found

    async def reconstruct(
        self, voxels: Row, candidates: int, pictures: PictureFormat
    ) -> Reconstruction:
        """Return drawn pictures."""
        if self._generator is None:
            raise RefusedError(404, "this service draws no pictures")
        arguments = (voxels, candidates, pictures)
        drawn: Reconstruction = await self._call(self._generator, "reconstruct", *arguments)
        return drawn

    async def card(self) -> ModelCard:
        """Return what is served."""
        if self._drawn_by is None and self._generator is not None:
            self._drawn_by = await self._call(self._generator, "about")
        card: ModelCard = await self._call(self._predictor, "card", *(self._drawn_by or ("", 0)))
        return card

    async def samples(self) -> Samples:
        """Return how many responses there are to try."""
        samples: Samples = await self._call(self._predictor, "samples")
        return samples

    async def sample(self, number: int) -> tuple[np.ndarray, bytes]:
        """Return one of them, and the picture that was seen."""
        found: tuple[np.ndarray, bytes] = await self._call(self._predictor, "sample", number)
        return found

    async def metrics(self) -> str:
        """Return the metrics of the gateway's node."""
        return await asyncio.to_thread(node_metrics)

    async def _call(self, handle: DeploymentHandle, method: str, *arguments: Any) -> Any:
        """Return a deployment's answer, asked again where a replica was lost on the way."""
        wait = FIRST_WAIT
        for tries_left in reversed(range(TRIES)):
            try:
                answer = await getattr(handle, method).remote(*arguments)
            except FULL:
                raise RefusedError(503, "busy: the models' queue is full", 1) from None
            except LOST:
                if not tries_left:  # perhaps by what was sent: the client is not to repeat it
                    raise RefusedError(504, "the models were lost") from None
                self._meters.count("mindeye_replica_retries")
                await asyncio.sleep(wait)
                wait *= 2
                continue
            except RayTaskError:  # its words are in the replica's log, and are no answer
                raise RefusedError(500, "internal error") from None
            if isinstance(answer, RefusedError):
                raise answer
            return answer
        raise AssertionError("unreachable")


class Metered(Watch):
    """Tells Prometheus of each request."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def begun(self, in_flight: int) -> None:
        """A request was taken in."""
        self._meters.set("mindeye_requests_in_flight", in_flight)

    def ended(self, route: str, status: int, seconds: float, in_flight: int) -> None:
        """A request was answered, or refused."""
        if status != BUSY:  # it took no place, and many come at once
            self._meters.set("mindeye_requests_in_flight", in_flight)
        self._meters.observe("mindeye_request_seconds", seconds, route=route, status=str(status))
        if reason := REASONS.get(status):
            self._meters.count("mindeye_requests_refused", reason=reason)


@serve.deployment(name="Gateway", logging_config=LOGGING)
@serve.ingress()
class Gateway:
    """HTTP in, HTTP out."""

    def __init__(
        self, settings: Service, predictor: DeploymentHandle, generator: DeploymentHandle | None
    ) -> None:
        self._tokens = open_tokens(
            settings.token_file, required=settings.require_token, host=listens_at()
        )
        self._settings, self._meters = settings, Meters(SERVING)
        self._models = RemoteModels(predictor, generator, self._meters)

    def __serve_build_asgi_app__(self) -> Guard:
        """Return the routes behind the guard."""
        limits = self._settings.limits
        return make_app(self._models, self._tokens, limits, Metered(self._meters))


def build(arguments: dict[str, Any]) -> serve.Application:
    """Return the application that arguments by dotted path ask for (serve/settings.py).

    Raises:
        InputError: there is no such setting, or its value does not fit.
        CheckpointError: the run has no good checkpoint.
    """
    settings = read_settings(arguments)
    if not settings.checkpoint:  # once for all replicas, also those that start later
        settings = replace(settings, checkpoint=str(best(settings.run_dir)))
    predictor = model(Predictor, settings, settings.predictor).bind(settings)
    generator = None
    if settings.pictures:
        generator = model(Generator, settings, settings.generator).bind(settings)
    at_once = settings.limits.in_flight
    gateway = scaled(Gateway, settings, settings.gateway).options(
        max_ongoing_requests=at_once,
        max_queued_requests=at_once,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    )
    return gateway.bind(settings, predictor, generator)


def model(deployment: Any, settings: Service, scale: ModelScale) -> Any:
    """Return a deployment that computes, with its queue and its GPUs."""
    gpus = scale.gpus if settings.device == "cuda" else 0.0
    return scaled(deployment, settings, scale, gpus).options(
        max_ongoing_requests=scale.max_ongoing, max_queued_requests=scale.max_queued
    )


def scaled(deployment: Any, settings: Service, scale: Scale, gpus: float = 0.0) -> Any:
    """Return a deployment with its replicas and its share of the machines."""
    return deployment.options(
        autoscaling_config={
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target_ongoing,
        },
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": gpus},
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=settings.limits.request_seconds + 10,
    )


def listens_at() -> str:
    """Return the address at which Serve listens, which the cluster decides, not the application.

    Behind HAProxy, and wherever else calls go to replicas directly, each of them listens by itself,
    at every address.
    """
    if RAY_SERVE_ENABLE_DIRECT_INGRESS:
        return "0.0.0.0"
    client = _get_global_client()
    assert client is not None, "a replica runs under Serve"
    return str(client.http_config.host or "127.0.0.1")


def device_of(settings: Service, scale: ModelScale) -> str:
    """Return where a deployment computes: on its GPUs, if it has any."""
    return "cuda" if settings.device == "cuda" and scale.gpus > 0 else "cpu"


def node_metrics() -> str:
    """Return what the gateway's node exports of this service, in Prometheus's words."""
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    kept = [
        line
        for line in text.splitlines()
        if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(EXPORTED)
    ]
    return "\n".join([*kept, ""])
