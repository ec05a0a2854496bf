"""Every setting of the service, on one page, as flat dotted paths: arguments of `serve.app:build`.

`serve run serve.app:build checkpoint=models:/mindeye@champion draw.steps=8`, and the same names
under `args` in service.yaml.
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
    """What a request may cost; more is refused before anything is computed."""

    body_mib: float = 16.0
    """Bytes of a body (MiB)."""
    json_mib: float = 2.0
    """Bytes of a JSON body, whose numbers take a multiple of them in memory (MiB)."""
    body_seconds: float = 10.0
    """Time in which a body must have arrived."""
    request_seconds: float = 120.0
    """Time in which a single brain must be answered, and each line of a batch."""
    in_flight: int = 64
    """Requests that a gateway works on at once, and that wait before it; one more is told to come
    again (429)."""
    batch: int = 256
    """Brains of one request to /v1/batch."""
    magnitude: float = 1000.0
    """Largest response (z-scored)."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check(value > 0, f"limits.{name}", value, "above 0")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many replicas of a deployment there are, and what each takes."""

    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing: float = 4.0
    """Requests at once for each replica, above which one more is started."""
    cpus: float = 0.5

    def __post_init__(self) -> None:
        at_most = self.max_replicas
        fits = 1 <= self.min_replicas <= at_most
        check(fits, "min_replicas", self.min_replicas, f"1 to max_replicas, {at_most}")
        check(self.target_ongoing > 0, "target_ongoing", self.target_ongoing, "above 0")


@dataclass(frozen=True, kw_only=True)
class ModelScale(Scale):
    """The same of a deployment that computes, how much waits for it, and how much is one batch."""

    max_ongoing: int = 32
    """Requests at once that a replica takes; more wait before it."""
    max_queued: int = 64
    """Requests that wait for a replica in each gateway; one more is refused (503)."""
    batch: int = 16
    """Brains that are computed together, at most."""
    batch_wait_seconds: float = 0.0
    """How long the first of a batch waits for others while nothing is being computed."""
    gpus: float = 0.0
    """GPUs of each replica with `device` cuda; a deployment without any computes on the CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_ongoing", "max_queued", "batch"):
            check(getattr(self, name) > 0, name, getattr(self, name), "above 0")


@dataclass(frozen=True, kw_only=True)
class Service(DrawOptions):
    """One service: its models as jobs/reconstruct.py takes them, who may ask, and how much."""

    pool: str = ""
    """Pool of jobs/pool.py that retrieval chooses from; the test split's pictures without one."""
    pictures: bool = True
    """Offer /v1/reconstruct."""
    name: str = "mindeye"
    """What a model from a folder is called in answers; a registered one has its own name."""
    refresh_seconds: float = 10.0
    """How often a models:/NAME@ALIAS is looked up, to follow where the alias leads."""
    token_file: str = ""
    """File with the bearer tokens that may ask, one a line; ~/.mindeye-dist/token, made at the
    first start, without one."""
    require_token: bool = True
    """Answer only who has a token; without, the service starts on the loopback address alone."""
    limits: Limits = field(default_factory=Limits)
    gateway: Scale = field(default_factory=lambda: Scale(cpus=0.2))
    """Takes requests, checks them and passes them on."""
    predictor: ModelScale = field(default_factory=ModelScale)
    """Embeds and retrieves."""
    generator: ModelScale = field(
        default_factory=lambda: ModelScale(
            max_ongoing=8, max_queued=16, batch=4, target_ongoing=2, cpus=1, gpus=1
        )
    )
    """Draws pictures, on GPUs where it has any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Its latents would change without the model's version saying so.
        got = self.lowlevel_run_dir
        fits = not (got.startswith(SCHEME) and "@" in got)
        check(fits, "lowlevel_run_dir", got, "a version, models:/NAME/VERSION, and no alias")
        check(self.refresh_seconds > 0, "refresh_seconds", self.refresh_seconds, "above 0")


def read_settings(arguments: Mapping[str, Any]) -> Service:
    """Return the service that arguments by dotted path ask for.

    Words of `serve run` come as text, which is read as YAML where the setting is no text itself.

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
