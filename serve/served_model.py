"""The model that is served now, and its successor: opened beside it, then put in its place.

A `models:/NAME@ALIAS` is looked up every few seconds by each replica; whoever computes keeps the
model that it began with, so no request fails and every answer names what gave it. A successor that
cannot be opened changes nothing.
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
Opened = TypeVar("Opened")
LONGEST_WAIT = 600.0
"""Between attempts at a successor that cannot be opened (seconds)."""


class Champion(Generic[Opened]):
    """What the settings' checkpoint leads to, opened.

    Args:
        settings: of the service.
        opened: opens a checkpoint's folder, given what it is called in answers.
        told: is told "ok" or "failed" of every attempt to follow the alias.

    Raises:
        CheckpointError: there is no such model, or it cannot be fetched.
    """

    def __init__(
        self,
        settings: Service,
        opened: Callable[[Path, str], Opened],
        told: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._settings, self._opened, self._told = settings, opened, told
        self._following: threading.Thread | None = None
        self._stop = threading.Event()
        self._wait: float = settings.refresh_seconds
        named = settings.checkpoint
        if not named.startswith(SCHEME):
            path, _ = chosen_checkpoint(settings)
            self.now = opened(path, version_of(path, settings.name))
            return
        from jobs import registry  # MLflow takes seconds to import, and is needed here alone

        self._registry = registry
        self._version = registry.look_up(named, settings.mlflow)
        self.now = self._open(self._version)
        if "@" in named:
            self._following = threading.Thread(target=self._follow, daemon=True)
            self._following.start()

    def close(self) -> None:
        """Follow the alias no longer."""
        self._stop.set()

    def check_health(self) -> None:
        """See that the alias is still followed, where it is to be.

        Raises:
            RuntimeError: it is not.
        """
        if self._following is not None and not self._following.is_alive():
            raise RuntimeError("the registry's alias is followed no longer")

    def _open(self, version: "Registered") -> Opened:
        path = self._registry.fetch(version, self._settings.mlflow)
        return self._opened(path, version_of(path, f"{version.name}/{version.number}"))

    def _follow(self) -> None:
        wait = self._settings.refresh_seconds
        while not self._stop.wait(wait):
            wait = self._settings.refresh_seconds
            try:
                found = self._registry.look_up(self._settings.checkpoint, self._settings.mlflow)
            except UserError as error:
                log.warning("registry: %s: the model stays", type(error).__name__)
                continue
            if found != self._version:
                self._swap(found)
                wait = self._wait

    def _swap(self, version: "Registered") -> None:
        name = f"{version.name}/{version.number}"
        try:
            self.now = self._open(version)
        except (UserError, OSError, RuntimeError, MemoryError) as error:
            # The message may name the subject, which is no log's.
            log.warning("%s: %s: not served, the model stays", name, type(error).__name__)
            self._told("failed")
            # What failed once costs as much the next time: less and less often.
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            return
        self._version, self._wait = version, self._settings.refresh_seconds
        self._told("ok")
        log.warning("%s: is served now", name)
