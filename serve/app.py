"""The service on Ray Serve: `serve run serve.app:build` or `serve deploy serve/service.yaml`.

Gateway (HTTP and checks, no model) -> RetrievalDeployment (embeds, retrieves) and DrawingDeployment
(draws pictures). Requests that arrive while a replica computes form its next batch. An answer
depends on its request alone, so a call whose replica died is repeated on another replica.
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
from jobs.opening.checkpoints import best_checkpoint
from serve.auth import open_tokens
from serve.bodies import RefusedError, Row
from serve.drawer import Drawer
from serve.gateway import make_app
from serve.guard import BUSY, REASONS, Guard, RequestObserver
from serve.prometheus import SERVING
from serve.retriever import Retriever, VersionedEmbedding
from serve.schema import ModelCard, PictureFormat, Reconstruction, Retrieval, Samples
from serve.served_model import ServedModel
from serve.settings import ModelScale, Scale, Service, read_settings

Model = TypeVar("Model", Retriever, Drawer)
LOST_REPLICA_ERRORS = (RayActorError, ObjectLostError)
MAX_ATTEMPTS, FIRST_DELAY = 3, 0.1
"""Maximum attempts for a call whose replica died; delay before the second, in seconds."""
QUEUE_FULL_ERRORS = (BackPressureError, DeploymentUnavailableError)
LOGGING_CONFIG = {"encoding": "JSON", "enable_access_log": False}
"""No access log: the guard writes its own lines, which repeat nothing from the request."""
METRIC_PREFIX = "ray_mindeye_"


def build(arguments: dict[str, Any]) -> serve.Application:
    """Build the application from settings by dotted path (serve/settings.py).

    Raises:
        InputError: there is no such setting, or its value does not fit.
        CheckpointError: the run has no good checkpoint.
    """
    settings = read_settings(arguments)
    if not settings.checkpoint:  # chosen once, so that replicas started later load the same one
        settings = replace(settings, checkpoint=str(best_checkpoint(settings.run_dir)))
    predictor = configure_model(RetrievalDeployment, settings, settings.predictor).bind(settings)
    generator = None
    if settings.pictures:
        generator = configure_model(DrawingDeployment, settings, settings.generator).bind(settings)
    in_flight = settings.limits.in_flight
    gateway = configure_scale(Gateway, settings, settings.gateway).options(
        max_ongoing_requests=in_flight,
        max_queued_requests=in_flight,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    )
    return gateway.bind(settings, predictor, generator)


def configure_model(deployment: Any, settings: Service, scale: ModelScale) -> Any:
    """Return the deployment with its replicas, machine resources and queue limits set."""
    gpus = scale.gpus if settings.device == "cuda" else 0.0
    return configure_scale(deployment, settings, scale, gpus).options(
        max_ongoing_requests=scale.max_ongoing, max_queued_requests=scale.max_queued
    )


def configure_scale(deployment: Any, settings: Service, scale: Scale, gpus: float = 0.0) -> Any:
    """Return the deployment with its number of replicas and their CPUs and GPUs set."""
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


class Batcher:
    """Computes batches in a thread, so that the replica can answer health checks meanwhile."""

    def __init__(self, scale: ModelScale, meters: Meters) -> None:
        torch.set_num_threads(max(1, math.ceil(scale.cpus)))
        self._meters, self._waiting = meters, 0

    async def submit(self, task: str, batched: Callable[..., Any], *arguments: Any) -> Any:
        """Return the answer to one request, computed in a batch with others."""
        self._count(task, 1)
        try:
            return await batched(arguments)
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


class AliasMetrics:
    """Counts attempts to load the model that the registry's alias points to."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        meters.set("mindeye_model_swap_failing", 0)

    def __call__(self, outcome: str) -> None:
        """Count an attempt; the outcome is "ok" or "failed"."""
        self._meters.count("mindeye_model_swaps", outcome=outcome)
        self._meters.set("mindeye_model_swap_failing", float(outcome != "ok"))


def open_model(
    settings: Service, scale: ModelScale, kind: type[Model]
) -> tuple[Batcher, ServedModel[Model]]:
    """Open a replica's model and the batcher that computes with it."""
    meters, device = Meters(SERVING), choose_device(settings, scale)
    batcher = Batcher(scale, meters)
    served = ServedModel(
        settings, lambda path, version: kind(settings, path, version, device), AliasMetrics(meters)
    )
    return batcher, served


def choose_device(settings: Service, scale: ModelScale) -> str:
    """Return the device to compute on: cuda if the replica has a share of a GPU, else cpu."""
    return "cuda" if settings.device == "cuda" and scale.gpus > 0 else "cpu"


def set_batching(scale: ModelScale, *methods: Any) -> None:
    """Set batch size and wait of methods decorated with `serve.batch`."""
    for method in methods:
        method.set_max_batch_size(scale.batch)
        method.set_batch_wait_timeout_s(scale.batch_wait_seconds)


@serve.deployment(name="Predictor", logging_config=LOGGING_CONFIG)
class RetrievalDeployment:
    """Embeds voxels and retrieves gallery pictures; the deployment `Predictor`."""

    def __init__(self, settings: Service) -> None:
        self._batcher, self._served = open_model(settings, settings.predictor, Retriever)
        set_batching(settings.predictor, self._embed, self._retrieve)

    async def embed(self, voxels: Row) -> VersionedEmbedding | RefusedError:
        """Return the embedding."""
        return await self._batcher.submit("embed", self._embed, voxels)

    async def retrieve(
        self, voxels: Row, k: int, pictures: PictureFormat
    ) -> Retrieval | RefusedError:
        """Return the k nearest gallery pictures."""
        return await self._batcher.submit("retrieve", self._retrieve, voxels, k, pictures)

    @serve.batch
    async def _embed(self, batch: list[tuple[Row]]) -> list[VersionedEmbedding | RefusedError]:
        retriever: Retriever = self._served.current
        return await self._batcher.compute("embed", retriever.embed, [row for (row,) in batch])

    @serve.batch
    async def _retrieve(
        self, batch: list[tuple[Row, int, PictureFormat]]
    ) -> list[Retrieval | RefusedError]:
        return await self._batcher.compute("retrieve", self._served.current.retrieve, batch)

    async def card(self, generator: str, max_candidates: int) -> ModelCard:
        """Return the model card."""
        return self._served.current.card(generator, max_candidates)

    async def samples(self) -> Samples:
        """Return the number and shape of the sample responses."""
        return self._served.current.samples()

    async def sample(self, number: int) -> tuple[np.ndarray, bytes] | RefusedError:
        """Return a sample's responses, (repeats, voxels), and the seen picture as WebP."""
        try:
            return await asyncio.to_thread(self._served.current.sample, number)
        except RefusedError as refused:
            return refused

    def check_health(self) -> None:
        """Raise to have Serve restart the replica."""
        self._served.check_health()


@serve.deployment(name="Generator", logging_config=LOGGING_CONFIG)
class DrawingDeployment:
    """Draws pictures; the deployment `Generator`."""

    def __init__(self, settings: Service) -> None:
        self._batcher, self._served = open_model(settings, settings.generator, Drawer)
        set_batching(settings.generator, self._reconstruct)

    async def reconstruct(
        self, voxels: Row, candidates: int, pictures: PictureFormat
    ) -> Reconstruction | RefusedError:
        """Return drawn pictures."""
        arguments = (voxels, candidates, pictures)
        return await self._batcher.submit("reconstruct", self._reconstruct, *arguments)

    @serve.batch
    async def _reconstruct(
        self, batch: list[tuple[Row, int, PictureFormat]]
    ) -> list[Reconstruction | RefusedError]:
        drawer: Drawer = self._served.current
        return await self._batcher.compute("reconstruct", drawer.reconstruct, batch)

    async def describe_generator(self) -> tuple[str, int]:
        """Return the generator's name and its maximum number of candidates."""
        return self._served.current.generator, self._served.current.max_candidates

    def check_health(self) -> None:
        """Raise to have Serve restart the replica."""
        self._served.check_health()


class RemoteModels:
    """Client of the model deployments, with the interface that the routes expect."""

    def __init__(
        self, predictor: DeploymentHandle, generator: DeploymentHandle | None, meters: Meters
    ) -> None:
        self._predictor, self._generator, self._meters = predictor, generator, meters
        self._generator_facts: tuple[str, int] | None = None

    async def embed(self, voxels: Row) -> tuple[str, np.ndarray]:
        """Return the model's version and the embedding."""
        answer: VersionedEmbedding = await self._call(self._predictor, "embed", voxels)
        return answer.model, answer.embedding

    async def retrieve(self, voxels: Row, k: int, pictures: PictureFormat) -> Retrieval:
        """Return the k nearest gallery pictures."""
        answer: Retrieval = await self._call(self._predictor, "retrieve", voxels, k, pictures)
        return answer

    async def reconstruct(
        self, voxels: Row, candidates: int, pictures: PictureFormat
    ) -> Reconstruction:
        """Return drawn pictures."""
        if self._generator is None:
            raise RefusedError(404, "this service draws no pictures")
        arguments = (voxels, candidates, pictures)
        answer: Reconstruction = await self._call(self._generator, "reconstruct", *arguments)
        return answer

    async def card(self) -> ModelCard:
        """Return the model card."""
        if self._generator_facts is None and self._generator is not None:
            self._generator_facts = await self._call(self._generator, "describe_generator")
        facts = self._generator_facts or ("", 0)
        card: ModelCard = await self._call(self._predictor, "card", *facts)
        return card

    async def samples(self) -> Samples:
        """Return the number and shape of the sample responses."""
        samples: Samples = await self._call(self._predictor, "samples")
        return samples

    async def sample(self, number: int) -> tuple[np.ndarray, bytes]:
        """Return a sample's responses, (repeats, voxels), and the seen picture as WebP."""
        sample: tuple[np.ndarray, bytes] = await self._call(self._predictor, "sample", number)
        return sample

    async def metrics(self) -> str:
        """Return the metrics of the gateway's node in Prometheus's text format."""
        return await asyncio.to_thread(scrape_node_metrics)

    async def _call(self, handle: DeploymentHandle, method: str, *arguments: Any) -> Any:
        """Return the method's result; a call whose replica died is repeated on another replica."""
        delay = FIRST_DELAY
        for attempts_left in reversed(range(MAX_ATTEMPTS)):
            try:
                answer = await getattr(handle, method).remote(*arguments)
            except QUEUE_FULL_ERRORS:
                raise RefusedError(503, "busy: the models' queue is full", 1) from None
            except LOST_REPLICA_ERRORS:
                if not attempts_left:  # 504: the client must not repeat what may kill replicas
                    raise RefusedError(504, "the models were lost") from None
                self._meters.count("mindeye_replica_retries")
                await asyncio.sleep(delay)
                delay *= 2
                continue
            except RayTaskError:  # the replica's log has the message, which may quote the request
                raise RefusedError(500, "internal error") from None
            if isinstance(answer, RefusedError):
                raise answer
            return answer
        raise AssertionError("unreachable")


class RequestMetrics(RequestObserver):
    """Reports each request to Prometheus."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def on_start(self, in_flight: int) -> None:
        """Set the number of requests in flight."""
        self._meters.set("mindeye_requests_in_flight", in_flight)

    def on_end(self, route: str, status: int, seconds: float, in_flight: int) -> None:
        """Count an answered or refused request."""
        if status != BUSY:  # a busy refusal was never in flight, and may come by the hundred
            self._meters.set("mindeye_requests_in_flight", in_flight)
        self._meters.observe("mindeye_request_seconds", seconds, route=route, status=str(status))
        if reason := REASONS.get(status):
            self._meters.count("mindeye_requests_refused", reason=reason)


@serve.deployment(name="Gateway", logging_config=LOGGING_CONFIG)
@serve.ingress()
class Gateway:
    """HTTP server: checks requests and passes them on to the model deployments."""

    def __init__(
        self, settings: Service, predictor: DeploymentHandle, generator: DeploymentHandle | None
    ) -> None:
        self._tokens = open_tokens(
            settings.token_file, required=settings.require_token, host=find_listen_host()
        )
        self._settings, self._meters = settings, Meters(SERVING)
        self._models = RemoteModels(predictor, generator, self._meters)

    def __serve_build_asgi_app__(self) -> Guard:
        """Return the ASGI application: the guard around the routes."""
        limits = self._settings.limits
        return make_app(self._models, self._tokens, limits, RequestMetrics(self._meters))


def find_listen_host() -> str:
    """Return the address at which Serve listens, a setting of the cluster, not the application.

    With direct ingress (HAProxy in front, for one) each replica listens by itself, at every
    address.
    """
    if RAY_SERVE_ENABLE_DIRECT_INGRESS:
        return "0.0.0.0"
    client = _get_global_client()
    assert client is not None, "a replica runs under Serve"
    return str(client.http_config.host or "127.0.0.1")


def scrape_node_metrics() -> str:
    """Return this service's metrics on the gateway's node, in Prometheus's text format."""
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    lines = [
        line
        for line in text.splitlines()
        if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(METRIC_PREFIX)
    ]
    return "\n".join([*lines, ""])
