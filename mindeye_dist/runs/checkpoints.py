"""Checkpoints: a folder that is whole or not there.

`model.safetensors` holds the weights, `optimizer-*.safetensors` the moments (one file a rank),
`config.json` the settings, `shapes.json` the shapes of the data, `state.json` the progress, and
`manifest.json`, written last, the digest of every other file. A checkpoint is written under a
temporary name, flushed to disk and renamed, by a thread while training goes on. A killed or failed
save leaves earlier checkpoints untouched; loading checks every digest first. Nothing is unpickled.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed import ProcessGroup

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.distributed import group_of_its_own, rank
from mindeye_dist.errors import CheckpointError
from mindeye_dist.runs.checkpoint_writing import (
    MODEL,
    MOMENTS,
    HostCopies,
    Parameters,
    RankShard,
    raise_on_all_ranks,
    rank_shard,
    write_rank_shard,
)
from mindeye_dist.runs.config_changes import CHANGES
from mindeye_dist.runs.folder import CHECKPOINTS
from mindeye_dist.shapes import Shapes
from mindeye_dist.strict import from_dict, from_stored, removed_in_use, to_stored

log = logging.getLogger(__name__)
CONFIG, STATE, MANIFEST = "config.json", "state.json", "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a run; the loader's position follows from the step.

    Attributes:
        step: number of optimizer steps taken.
        best_step: step of the best validation, -1 before the first validation.
        best_score: score of the best validation.
        skipped: number of steps that left the weights unchanged, as the gradient was not finite.
    """

    step: int = 0
    best_step: int = -1
    best_score: float = float("-inf")
    skipped: int = 0


Record = TypeVar("Record", Shapes, Progress)
CopyCheckpoint = Callable[[Path, Collection[str]], None]


class Checkpoints:
    """The checkpoints of one run, `step-*` folders under `<run_dir>/checkpoints`.

    Args:
        run_dir: the run's folder.
        keep: number of newest checkpoints to keep besides the best one.
        copy: called on rank 0, in a background thread, with each new checkpoint and the names of
            the checkpoints to keep. Skips checkpoints deleted meanwhile. Only `close` waits for it.

    Attributes:
        folder: the folder that holds the checkpoints.
        last_written_step: step of the last checkpoint that this object wrote, -1 before the first.
    """

    def __init__(self, run_dir: str, keep: int, copy: CopyCheckpoint | None = None) -> None:
        self.folder = Path(run_dir) / CHECKPOINTS
        self.last_written_step = -1
        self._keep = keep
        self._copy = copy
        self._copier = ThreadPoolExecutor(1, "copy")
        self._kept: set[str] = set()
        self._saving: Future[None] | None = None
        self._group: ProcessGroup | None = None
        self._held = HostCopies()

    def save(self, progress: Progress, parameters: Parameters, about: dict[str, Any]) -> Path:
        """Write a checkpoint; called on all ranks with the same progress.

        Args:
            progress: progress of the run.
            parameters: name and training state of each parameter, in the same order on every rank.
            about: further JSON files of the folder, by name.

        Raises:
            CheckpointError: a rank could not write. Raised on all ranks; earlier checkpoints stay.
        """
        self.wait_for_save()
        self._write(progress, rank_shard(parameters), about, None)
        return self.folder / checkpoint_name(progress.step)

    def save_in_background(
        self, progress: Progress, parameters: Parameters, about: dict[str, Any]
    ) -> None:
        """Copy the training state; a thread writes the checkpoint while the caller goes on.

        `wait_for_save` reports success or failure.
        """
        self.wait_for_save()
        self._group = self._group or group_of_its_own()
        share = rank_shard(parameters, self._held)
        thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving = thread.submit(self._write, progress, share, about, self._group)
        thread.shutdown(wait=False)

    def wait_for_save(self) -> bool:
        """Wait for the background save; return whether it succeeded, the same on all ranks.

        The error of a failed save is logged.
        """
        saving, self._saving = self._saving, None
        try:
            if saving is not None:
                saving.result()
        except CheckpointError as error:
            log.warning("not saved: %s", error)
            return False
        return True

    def close(self) -> None:
        """Wait for the background save and its copies; log errors instead of raising them."""
        saving, self._saving = self._saving, None
        if saving is not None and (problem := saving.exception()) is not None:
            log.warning("not saved: %s", problem)
        self._copier.shutdown()

    def newest(self) -> Path | None:
        """Return the newest checkpoint that passes `verify`; log newer ones that do not."""
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            try:
                verify(path)
            except CheckpointError as error:
                log.warning("passed over: %s", error)
            else:
                return path
        return None

    def best(self) -> Path | None:
        """Return the checkpoint of the best validation so far, named by the newest checkpoint."""
        newest = self.newest()
        if newest is None:
            return None
        progress = read_progress(newest)
        path = self.folder / checkpoint_name(progress.best_step)
        return path if path.exists() else newest

    def _write(
        self,
        progress: Progress,
        share: RankShard,
        about: dict[str, Any],
        group: ProcessGroup | None,
    ) -> None:
        final = self.folder / checkpoint_name(progress.step)
        partial = self.folder / f".writing-{progress.step:08d}"
        with raise_on_all_ranks(f"{partial}: cannot be made", group):
            if rank() == 0:
                for left in self.folder.glob(".writing-*"):  # remains of failed or killed saves
                    shutil.rmtree(left)
                partial.mkdir(parents=True)
        with raise_on_all_ranks(f"{partial}: cannot be written", group):
            write_rank_shard(partial, share)
        with raise_on_all_ranks(f"{partial}: cannot be completed", group):
            if rank() == 0:
                complete_folder(partial, {STATE: dataclasses.asdict(progress), **about})
                shutil.rmtree(final, ignore_errors=True)
                rename_durably(partial, final)
        self.last_written_step = progress.step
        if rank() == 0:
            self._forget(progress)
            if self._copy is not None:
                self._copier.submit(self._copy_kept, final)

    def _forget(self, progress: Progress) -> None:
        # Later steps belong to a course that this run has left, or are damaged.
        paths = sorted(self.folder.glob("step-*"))
        past = [path.name for path in paths if path.name <= checkpoint_name(progress.step)]
        self._kept = {*past[-self._keep :], checkpoint_name(progress.best_step)}
        for path in paths:
            if path.name not in self._kept:
                # A folder that another process reads may not be deletable: no reason to stop.
                shutil.rmtree(path, onerror=lambda _, path, error: log.warning("%s", error[1]))

    def _copy_kept(self, path: Path) -> None:
        if self._copy is not None and path.name in self._kept:
            self._copy(path, self._kept)


def complete_folder(folder: Path, about: Mapping[str, Any]) -> None:
    """Add JSON files by name to a folder of tensors, then its manifest, and flush all to disk."""
    for name, values in about.items():
        (folder / name).write_text(json.dumps(values, indent=1))
    digests = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1))
    for path in (*folder.iterdir(), folder):
        _flush(path)


def rename_durably(complete: Path, final: Path) -> None:
    """Rename a complete folder and flush the change to disk."""
    complete.rename(final)
    _flush(final.parent)


def verify(path: Path) -> None:
    """Check every file of a checkpoint against the digests of its manifest.

    Raises:
        CheckpointError: a file is missing or differs from the file that was written.
    """
    try:
        digests = json.loads((path / MANIFEST).read_text())
        there = {file.name: file_digest(file) for file in path.iterdir() if file.name != MANIFEST}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint: {error}") from error
    if not isinstance(digests, dict) or not {MODEL, CONFIG, STATE} <= digests.keys():
        raise CheckpointError(f"{path}: {MANIFEST} is not the manifest of a checkpoint")
    for name in sorted(digests.keys() | there.keys()):
        if name not in there:
            raise CheckpointError(f"{path}: {name} is missing")
        if there[name] != digests.get(name):
            raise CheckpointError(f"{path}: {name} is damaged: its digest is not the manifest's")


def file_digest(path: Path) -> str:
    """Return a file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_config(path: Path) -> ExperimentConfig:
    """Return the config that a checkpoint was trained with, by this version or an earlier one.

    Raises:
        CheckpointError: the file cannot be read, or sets what the model no longer has.
    """
    values = read_stored_config(path)
    lost = removed_in_use(values, CHANGES)
    if model := [name for name in lost if name.startswith("model.")]:
        raise CheckpointError(f"{path}: this version of the model no longer has {model[0]}")
    for name, value in lost.items():
        log.warning("%s: trained with %s = %r, which this version no longer has", path, name, value)
    try:
        return from_stored(ExperimentConfig, values, CHANGES, drop=True)
    except ValueError as error:
        raise CheckpointError(f"{path / CONFIG}: cannot be read: {error}") from error


def read_stored_config(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config.json, in the format that it was written in."""
    return _read_json(path / CONFIG)


def read_shapes(path: Path) -> Shapes:
    """Return the shapes that a checkpoint's model was built for."""
    return _read(Shapes, path / "shapes.json")


def read_progress(path: Path) -> Progress:
    """Return the progress of the run at a checkpoint."""
    return _read(Progress, path / STATE)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the model's weights by name."""
    with _safetensors(path / MODEL) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


class TrainingState:
    """Training state in a checkpoint, read one parameter at a time."""

    def __init__(self, path: Path, expected: dict[str, tuple[int, ...]]) -> None:
        self._files: dict[str, Path] = {}
        found: dict[str, tuple[int, ...]] = {}
        for file_path in [path / MODEL, *sorted(path.glob("optimizer-*.safetensors"))]:
            with _safetensors(file_path) as file:
                for name in file.keys():  # noqa: SIM118
                    self._files[name] = file_path
                    if file_path.name == MODEL:
                        found[name] = tuple(file.get_slice(name).get_shape())
        check_shapes(path, found, expected)

    def __call__(self, name: str) -> dict[str, Tensor]:
        """Return a parameter's weight and moments."""
        keys = {"weight": name, **{key: f"{key}:{name}" for key in MOMENTS}}
        state = {}
        for key, stored in keys.items():
            if stored not in self._files:
                raise CheckpointError(f"{stored}: missing from the optimizer's files")
            with _safetensors(self._files[stored]) as file:
                state[key] = file.get_tensor(stored)
        return state


def check_shapes(
    path: Path, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    """Compare the tensors of a file with those of a model.

    Raises:
        CheckpointError: lists the tensors that are missing, unexpected or of another shape.
    """
    problems = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected {name}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} is {found[name]}, the model has {expected[name]}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    if problems:
        raise CheckpointError(f"{path}: does not fit the model: " + "; ".join(problems))


def checkpoint_files(config: ExperimentConfig, shapes: Shapes) -> dict[str, Any]:
    """Return the JSON files that make a checkpoint self-contained."""
    return {CONFIG: to_stored(config, CHANGES), "shapes.json": dataclasses.asdict(shapes)}


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint of a step."""
    return f"step-{step:08d}"


def _flush(path: Path) -> None:
    # A rename is durable only once the file's bytes are on disk.
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _read(kind: type[Record], path: Path) -> Record:
    try:
        return from_dict(kind, _read_json(path), partial=True)
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: got {type(values).__name__}, expected a JSON object")
    return values
