"""Every setting of the service, by dotted path: the arguments of `serve.app:build`.

For example `serve run serve.app:build checkpoint=models:/mindeye@champion draw.steps=8`; in
service.yaml the same names stand under `args`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from jobs.command import SCHEME
from jobs.options.reconstruction import DrawOptions
from mindeye_dist.strict import check, override, paths


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a request; a larger one is refused before anything is computed."""

    body_mib: float = 16.0
    """Maximum size of a body, in MiB."""
    json_mib: float = 2.0
    """Maximum size of a JSON body, in MiB; in memory its numbers take a multiple."""
    body_seconds: float = 10.0
    """Time limit for a body to arrive, in seconds."""
    request_seconds: float = 120.0
    """Time limit of an answer to a single brain, and of each line of a batch, in seconds."""
    in_flight: int = 64
    """Maximum number of requests in work at a gateway, and of those queued before it; further
    ones get status 429."""
    batch: int = 256
    """Maximum number of brains in a request to /v1/batch."""
    magnitude: float = 1000.0
    """Largest accepted magnitude of a z-scored response."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check(value > 0, f"limits.{name}", value, "above 0")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Number of replicas of a deployment, and the CPUs of each."""

    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing: float = 4.0
    """Mean number of concurrent requests a replica; above it, Serve starts another replica."""
    cpus: float = 0.5
    """CPUs reserved for each replica."""

    def __post_init__(self) -> None:
        at_most = self.max_replicas
        fits = 1 <= self.min_replicas <= at_most
        check(fits, "min_replicas", self.min_replicas, f"1 to max_replicas, {at_most}")
        check(self.target_ongoing > 0, "target_ongoing", self.target_ongoing, "above 0")


@dataclass(frozen=True, kw_only=True)
class ModelScale(Scale):
    """Scale of a deployment with a model: also its queue, its batches and its GPUs."""

    max_ongoing: int = 32
    """Maximum number of concurrent requests in a replica; further ones are queued."""
    max_queued: int = 64
    """Maximum number of requests queued in each gateway; further ones get status 503."""
    batch: int = 16
    """Maximum number of brains in a batch."""
    batch_wait_seconds: float = 0.0
    """Time that an idle replica waits for a batch to fill, in seconds."""
    gpus: float = 0.0
    """GPUs reserved for each replica if `device` is cuda; 0 computes on the CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_ongoing", "max_queued", "batch"):
            check(getattr(self, name) > 0, name, getattr(self, name), "above 0")


@dataclass(frozen=True, kw_only=True)
class Service(DrawOptions):
    """Settings of a service: its models (as for jobs/reconstruct.py), access, limits and scale."""

    pool: str = ""
    """Pool of jobs/pool.py to retrieve from; empty for the test split's pictures."""
    pictures: bool = True
    """Offer /v1/reconstruct, which draws pictures."""
    name: str = "mindeye"
    """Name in answers of a model from a folder; a registered model has its own."""
    refresh_seconds: float = 10.0
    """Interval between look-ups of a models:/NAME@ALIAS, in seconds."""
    token_file: str = ""
    """File with the accepted bearer tokens, one a line; empty for ~/.mindeye-dist/token, which the
    first start writes."""
    require_token: bool = True
    """Refuse requests without a token. If false, the service starts only on a loopback address."""
    limits: Limits = field(default_factory=Limits)
    gateway: Scale = field(default_factory=lambda: Scale(cpus=0.2))
    """Deployment that takes HTTP requests, checks them and passes them on."""
    predictor: ModelScale = field(default_factory=ModelScale)
    """Deployment that embeds and retrieves."""
    generator: ModelScale = field(
        default_factory=lambda: ModelScale(
            max_ongoing=8, max_queued=16, batch=4, target_ongoing=2, cpus=1, gpus=1
        )
    )
    """Deployment that draws pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # An alias could move to other latents, and the version in the answers would not change.
        got = self.lowlevel_run_dir
        fits = not (got.startswith(SCHEME) and "@" in got)
        check(fits, "lowlevel_run_dir", got, "a version, models:/NAME/VERSION, and no alias")
        check(self.refresh_seconds > 0, "refresh_seconds", self.refresh_seconds, "above 0")


def read_settings(arguments: Mapping[str, Any]) -> Service:
    """Return the settings with arguments by dotted path applied.

    `serve run` passes every value as text; for a setting that is no text, it is parsed as YAML.

    Raises:
        InputError: there is no such setting, or its value does not fit.
    """
    default = Service()
    known = paths(default)
    return override(
        default,
        {
            path: yaml.safe_load(value)
            if isinstance(value, str) and not isinstance(known.get(path, ""), str)
            else value
            for path, value in arguments.items()
        },
    )
