"""Trainer: batches -> mixing -> model -> objective -> backend, with validation and checkpoints.

The trainer receives its parts and builds none. Besides weights and moments, the state of a run is
one number, the step: order, random draws, dropout, learning rate and temperature are functions of
it, so a resumed run repeats the uninterrupted one.
"""

import logging
import math
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mindeye_dist.batch import Batch
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.loader import TrainLoader, eval_batches
from mindeye_dist.distributed import agree, any_rank, gather, local_slice, rank, world_size
from mindeye_dist.errors import NonFiniteError, PreemptedError
from mindeye_dist.randomness import seed_for
from mindeye_dist.runs.checkpoints import Checkpoints, Progress
from mindeye_dist.runs.journal import Report
from mindeye_dist.training.backends.protocol import Backend
from mindeye_dist.training.draws import Mixing, draw_mixing, no_mixing
from mindeye_dist.training.guards import (
    Ledger,
    bad_samples,
    check_ranks,
    describe_non_finite,
    poison_if_non_finite,
)
from mindeye_dist.training.objective import Losses, Objective
from mindeye_dist.training.schedule import one_cycle

log = logging.getLogger(__name__)


@dataclass
class Clock:
    """Times of this process, in seconds.

    Attributes:
        started: start of the process, on the monotonic clock.
        waited: total wait for batches.
        training: total time of training steps.
        paused: wait for the last checkpoint.
        all_paused: total wait for checkpoints.
        samples: number of samples trained on, over all ranks.
    """

    started: float
    waited: float = 0.0
    training: float = 0.0
    paused: float = 0.0
    all_paused: float = 0.0
    samples: int = 0


class Trainer:
    """Trains one model; every rank calls the same methods.

    Args:
        config: the run.
        loader: the training batches.
        validation: the val split.
        objective: losses and scores.
        backend: model and optimizer.
        checkpoints: the run's checkpoints.
        about: JSON files of every checkpoint, by name.
        reports: called on rank 0 with each row of metrics; empty on other ranks.
        validated: called on rank 0 with the number of finished epochs and the score of each
            validation, once its checkpoint is written; empty on other ranks.
        notice: set on any rank to end the run after the current step.
    """

    def __init__(  # noqa: PLR0913 - these are the parts, and it builds none of them
        self,
        *,
        config: ExperimentConfig,
        loader: TrainLoader,
        validation: Dataset,
        objective: Objective,
        backend: Backend,
        checkpoints: Checkpoints,
        about: dict[str, Any],
        reports: Sequence[Report],
        validated: Sequence[Report] = (),
        notice: Event | None = None,
    ) -> None:
        self.config = config
        self.loader = loader
        self.validation = validation
        self.objective = objective
        self.backend = backend
        self.checkpoints = checkpoints
        self.about = about
        self.reports = reports
        self.validated = validated
        self.notice = notice or Event()
        samples = config.training.epochs * len(loader.dataset)
        self.total_steps = max(1, samples // config.training.global_batch_size)
        self.first_step = 0
        self.skipped = 0
        self.ledger = Ledger(loader, 0, backend.device)
        self.logged_bad_samples: set[int] = set()
        self.saved_step = -1
        self.unreported: list[tuple[int, dict[str, Any]]] = []
        self.clock = Clock(time.monotonic())

    def fit(self, progress: Progress) -> Progress:
        """Train to the last step and return the progress reached.

        Raises:
            PreemptedError: `notice` was set; the checkpoint of the step reached is written.
        """
        try:
            return self._fit(progress)
        finally:
            self.checkpoints.close()

    def _fit(self, progress: Progress) -> Progress:
        self.first_step, self.skipped = progress.step, progress.skipped
        self.ledger = Ledger(self.loader, progress.step, self.backend.device)
        batches = self.loader.batches(progress.step, self.total_steps, rank(), world_size())
        for batch in self._timed(batches):
            begun = time.monotonic()
            epoch = self.loader.epoch(batch.step)
            losses = self.train_step(batch, epoch)
            self.clock.training += time.monotonic() - begun
            self.clock.samples += batch.global_size
            progress = replace(progress, step=batch.step + 1, skipped=self.skipped)
            last = progress.step == self.total_steps
            self.ledger.add(batch)
            if progress.step % self.config.training.check_ranks_every == 0:
                check_ranks(self.backend.replicas(), progress.step)
            if last or progress.step % self.config.tracking.every_steps == 0:
                self._report(self._metrics(progress.step, epoch, losses))
            validated = last or self._ends_validation_epoch(batch.step)
            score = self.validate(progress.step, epoch) if validated else -math.inf
            improved = score > progress.best_score
            if improved:
                progress = replace(progress, best_step=progress.step, best_score=score)
            # Any rank may have notice, so all ranks ask together and save the same step.
            preempted = any_rank(self.notice.is_set(), self.backend.device) and not last
            due = progress.step % self.config.checkpoint.every_steps == 0
            if due or improved or last or preempted:
                self._save(progress, wait=last or preempted)
            if validated:
                self.unreported.append((self.saved_step, {"epoch": epoch + 1, "score": score}))
            self._report_saved_scores()
            if preempted:
                raise PreemptedError(
                    f"preempted at step {progress.step} of {self.total_steps}; "
                    "--resume goes on there"
                )
        return progress

    def summary(self) -> dict[str, Any]:
        """Return the facts of the training since this process started, for the report."""
        clock, compute = self.clock, self.config.compute
        busy = max(clock.training + clock.waited, 1e-9)
        wall = time.monotonic() - clock.started
        bad = self._bad(self.total_steps)
        peaks = agree(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
        return {
            "steps": self.total_steps,
            "first_step": self.first_step,
            "samples_per_s": clock.samples / busy,
            "data_wait_fraction": clock.waited / busy,
            "wall_s": wall,
            "checkpoint_pause_fraction": clock.all_paused / max(wall, 1e-9),
            "world_size": world_size(),
            "backend": compute.backend,
            "zero_stage": compute.zero_stage if compute.backend == "deepspeed" else None,
            "precision": compute.precision,
            "device": compute.device,
            "peak_memory_gib": sum(float(peak) for peak in peaks),
            "bad_samples": len(bad),
            "why_bad": [bad[number] for number in sorted(bad)],
            "non_finite_steps": self.skipped,
            "epochs_counted": self.ledger.epochs,
        }

    def train_step(self, batch: Batch, epoch: int) -> Losses:
        """Take one optimizer step on this rank's part of a global batch.

        Returns:
            The losses by name; empty if the step was skipped, as the gradient was not finite.

        Raises:
            NonFiniteError: the loss or the gradient is not finite and may not be skipped.
        """
        batch = unmixed = batch.to(self.backend.device)
        mixing = no_mixing(batch)
        if self.objective.mixes(epoch):
            mixing = draw_mixing(self.config.loss, self.config.training.seed, batch)
            batch = self.objective.mix(batch, mixing)
        self.backend.train(True)
        parts = self._parts(batch)
        if len(parts) == 1:
            losses = self.objective(self._forward(batch, "train"), batch, epoch, mixing)
            self.backend.backward(poison_if_non_finite(losses["total"]))
        else:
            losses = self._accumulate(parts, batch, epoch, mixing)
        if self.backend.step(*self._schedule(batch.step)):
            return losses
        self._skip(unmixed, losses["total"])
        return {}

    @torch.no_grad()
    def validate(self, step: int, epoch: int) -> float:
        """Report losses and scores of the val split; return the score that picks the best step."""
        self.backend.train(False)
        preds, truths, count = [], [], 0
        sums: dict[str, float] = defaultdict(float)
        size = self.config.training.global_batch_size
        for batch in eval_batches(self.validation, size, rank(), world_size()):
            batch = batch.to(self.backend.device)
            outputs = self._forward(batch, "validate")
            losses = self.objective(outputs, batch, epoch, no_mixing(batch))
            for name, value in losses.items():
                sums[f"val/{name}"] += batch.global_size * value.item()
            count += batch.global_size
            pred, truth = self.objective.judged(outputs, batch)
            preds.append(gather(pred, batch.global_size))
            truths.append(gather(truth, batch.global_size))
        scores = self.objective.scores(torch.cat(preds), torch.cat(truths))
        means = {name: value / count for name, value in sums.items()}
        named = {f"val/{name}": value for name, value in scores.items()}
        score = float(np.mean(list(scores.values())))
        if self.config.data.train_on == "train+val":
            score = float(step)  # val was trained on, so the last checkpoint counts as the best
        self._report({"step": step, "epoch": epoch, **means, **named, "val/score": score})
        return score

    def _forward(self, batch: Batch, purpose: str) -> Any:
        inputs = self.objective.inputs(batch, purpose)
        # Dropout draws from torch's global generator. Seeded here, masks are a function of step and
        # rank, and a checkpoint needs no generator state.
        seed = self.config.training.seed
        torch.manual_seed(seed_for(seed, "dropout", batch.step, rank(), batch.start))
        return self.backend.forward(*inputs)

    def _accumulate(self, parts: list[Batch], batch: Batch, epoch: int, mixing: Mixing) -> Losses:
        """Accumulate gradients over parts that see all negatives (GradCache, Gao et al. 2021).

        All outputs are computed without a graph; the loss gives the gradients of the outputs; each
        part then runs again, with the same dropout, and passes these gradients on to the weights.
        """
        with torch.no_grad():
            outputs = [self._forward(part, "train") for part in parts]
        names = [field.name for field in fields(outputs[0])]
        joined = {
            name: torch.cat([getattr(part, name) for part in outputs]).requires_grad_()
            for name in names
        }
        losses = self.objective(type(outputs[0])(**joined), batch, epoch, mixing)
        poison_if_non_finite(losses["total"]).backward()
        for part in parts:
            own = slice(part.start - batch.start, part.start - batch.start + len(part.keys))
            again = self._forward(part, "train")
            shares = [inner(getattr(again, name), joined[name].grad, own) for name in names]
            self.backend.backward(torch.stack(shares).sum(), last=part is parts[-1])
        return losses

    def _parts(self, batch: Batch) -> list[Batch]:
        largest = math.ceil(batch.global_size / world_size())
        count = math.ceil(largest / self.config.training.max_micro_batch_size)
        slices = [local_slice(len(batch.keys), i, count) for i in range(count)]
        return [batch.part(s.start, s.stop) for s in slices]

    def _schedule(self, step: int) -> tuple[float, float]:
        optimizer = self.config.optimizer
        return one_cycle(
            optimizer, step, self.total_steps, optimizer.warmup_epochs / self.config.training.epochs
        )

    def _ends_validation_epoch(self, step: int) -> bool:
        every = self.config.training.validate_every_epochs
        return self.loader.epoch(step + 1) // every > self.loader.epoch(step) // every

    def _skip(self, batch: Batch, loss: Tensor) -> None:
        """Count a batch whose step was skipped, or stop the run."""
        problem, training = describe_non_finite(batch, loss), self.config.training
        if training.on_non_finite == "stop":
            raise NonFiniteError(problem)
        if self.skipped >= training.max_non_finite:
            raise NonFiniteError(
                f"{problem}; {self.skipped} batches were skipped before, "
                f"training.max_non_finite is {training.max_non_finite}"
            )
        self.skipped += 1
        if rank() == 0:
            log.warning("skipped: %s", problem)

    def _save(self, progress: Progress, wait: bool) -> None:
        begun = time.monotonic()
        check_ranks(
            self.backend.replicas(), progress.step
        )  # or a diverged rank's weights might be saved
        # After a failed background save, the next save is waited for and raises if it fails too.
        written = self.checkpoints.wait_for_save()
        self._report_saved_scores()
        wait = wait or not written or not self.config.checkpoint.in_background
        save = self.checkpoints.save if wait else self.checkpoints.save_in_background
        save(progress, self.backend.state(), self.about)
        self.saved_step = progress.step
        self.clock.paused = time.monotonic() - begun
        self.clock.all_paused += self.clock.paused

    def _report_saved_scores(self) -> None:
        """Report the scores whose checkpoint has been written by now."""
        while self.unreported and self.unreported[0][0] <= self.checkpoints.last_written_step:
            _, row = self.unreported.pop(0)
            for report in self.validated:
                report(row)

    def _report(self, row: dict[str, Any]) -> None:
        row = {"time": round(time.time(), 3), **row}
        for report in self.reports:
            report(row)

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            begun = time.monotonic()
            batch = next(batches, None)
            self.clock.waited += time.monotonic() - begun
            if batch is None:
                return
            yield batch

    def _bad(self, step: int) -> dict[int, str]:
        """Return the bad samples found so far, and log the new ones."""
        bad = bad_samples(self.loader, step)
        if rank() == 0:
            for number in sorted(bad.keys() - self.logged_bad_samples):
                subject = self.config.data.subject
                log.warning("bad sample %d of %s: %s", number, subject, bad[number])
        self.logged_bad_samples |= bad.keys()
        return bad

    def _reading(self) -> dict[str, int]:
        """Return the counts of the store's reads, summed over all ranks."""
        counts = asdict(self.loader.dataset.store.counts)
        own = torch.tensor([list(counts.values())], device=self.backend.device)
        totals = gather(own, world_size()).sum(0).tolist()
        return {f"train/read_{name}": total for name, total in zip(counts, totals, strict=True)}

    def _metrics(self, step: int, epoch: int, losses: Losses) -> dict[str, Any]:
        clock = self.clock
        lr, _ = self._schedule(step - 1)
        busy = clock.training + clock.waited
        return {
            "step": step,
            "first_step": self.first_step,
            "total_steps": self.total_steps,
            "epoch": epoch,
            **{f"train/{name}": value.item() for name, value in losses.items()},
            "train/lr": lr,
            "train/temperature": self.objective.temperature(epoch),
            "train/samples_per_s": clock.samples / busy,
            "train/data_wait_fraction": clock.waited / busy,
            "train/checkpoint_pause_s": clock.paused,
            **self._reading(),
            "train/bad_samples": len(self._bad(step - 1)),
            "train/non_finite_steps": self.skipped,
            "train/wall_s": time.monotonic() - clock.started,
        }


def inner(outputs: Tensor, gradient: Tensor | None, own: slice) -> Tensor:
    """Return the scalar whose gradient with respect to `outputs` is rows `own` of `gradient`."""
    assert gradient is not None
    return (outputs.float() * gradient[own].float()).sum()
