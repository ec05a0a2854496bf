"""The model that a replica serves, replaced while it serves when the registry's alias moves.

Each replica looks up a checkpoint `models:/NAME@ALIAS` every few seconds. A new model is opened
beside the old one and then takes its place. A request keeps the model that it began with, so no
request fails, and every answer names its model. If the new model cannot be opened, the old one
stays.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from jobs.command import SCHEME
from jobs.opening.checkpoints import chosen_checkpoint
from mindeye_dist.errors import UserError
from serve.retriever import version_of
from serve.settings import Service

if TYPE_CHECKING:
    from jobs.tracking.registry import Registered

log = logging.getLogger("ray.serve.mindeye")
Model = TypeVar("Model")
MAX_DELAY = 600.0
"""Longest delay between attempts at a model that cannot be opened, in seconds."""


class ServedModel(Generic[Model]):
    """The open model of the settings' checkpoint, as `current`.

    Args:
        settings: settings of the service.
        open_model: opens a checkpoint, given its folder and its version string for answers.
        report: called with "ok" or "failed" after every attempt to load a new model.

    Raises:
        CheckpointError: there is no such model, or it cannot be fetched.
    """

    def __init__(
        self,
        settings: Service,
        open_model: Callable[[Path, str], Model],
        report: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._settings, self._open_model, self._report = settings, open_model, report
        self._follower: threading.Thread | None = None
        self._stop = threading.Event()
        self._retry_delay: float = settings.refresh_seconds
        checkpoint = settings.checkpoint
        if not checkpoint.startswith(SCHEME):
            path, _ = chosen_checkpoint(settings)
            self.current = open_model(path, version_of(path, settings.name))
            return
        from jobs.tracking import registry  # here, as importing MLflow takes seconds

        self._registry = registry
        self._version = registry.look_up(checkpoint, settings.mlflow)
        self.current = self._fetch(self._version)
        if "@" in checkpoint:
            self._follower = threading.Thread(target=self._follow_alias, daemon=True)
            self._follower.start()

    def close(self) -> None:
        """Stop following the alias."""
        self._stop.set()

    def check_health(self) -> None:
        """Check the thread that follows the alias.

        Raises:
            RuntimeError: the thread has died.
        """
        if self._follower is not None and not self._follower.is_alive():
            raise RuntimeError("the thread that follows the registry's alias has died")

    def _fetch(self, version: "Registered") -> Model:
        path = self._registry.fetch(version, self._settings.mlflow)
        return self._open_model(path, version_of(path, f"{version.name}/{version.number}"))

    def _follow_alias(self) -> None:
        delay = self._settings.refresh_seconds
        while not self._stop.wait(delay):
            delay = self._settings.refresh_seconds
            try:
                target = self._registry.look_up(self._settings.checkpoint, self._settings.mlflow)
            except UserError as error:
                log.warning("registry: %s: the model stays", type(error).__name__)
                continue
            if target != self._version:
                self._swap(target)
                delay = self._retry_delay

    def _swap(self, version: "Registered") -> None:
        name = f"{version.name}/{version.number}"
        try:
            self.current = self._fetch(version)
        except (UserError, ValueError, ImportError, OSError, RuntimeError, MemoryError) as error:
            # Only the type is logged: the message may name the subject.
            log.warning("%s: %s: not served, the model stays", name, type(error).__name__)
            self._report("failed")
            # A failed attempt costs as much as a successful one, so they become rarer.
            self._retry_delay = min(2 * self._retry_delay, MAX_DELAY)
            return
        self._version, self._retry_delay = version, self._settings.refresh_seconds
        self._report("ok")
        log.warning("%s: is served now", name)
