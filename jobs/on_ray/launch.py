"""Launch: start a run's workers on a Ray cluster. Train and tune both use it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayError
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    get_preemption_info,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.on_ray.board import Board, BoardHandler, shown_progress
from jobs.on_ray.join import join
from jobs.on_ray.prometheus import TrainingMeters
from jobs.tracking.session import tracked
from jobs.worker import worker
from mindeye_dist.config import ComputeConfig, ExperimentConfig
from mindeye_dist.distributed import rank
from mindeye_dist.errors import InputError, PreemptedError, UserError, WorkersLostError
from mindeye_dist.runs.journal import Report
from mindeye_dist.strict import from_dict, to_dict
from mindeye_dist.training.preemption import sigterm_notice

log = logging.getLogger(__name__)
ASK_SECONDS = 1.0
LOST_WORKER_ERRORS = (RayError, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)
"""Exceptions that Ray raises for a dead worker. A worker's own exceptions pass unchanged."""


def launch(
    config: ExperimentConfig, board: ActorHandle | None = None, parent_run: str = ""
) -> None:
    """Run `worker` on the Ray workers that the config asks for, and show the progress.

    If Ray drains a worker's node, all workers start again on other nodes, from the step reached.

    Args:
        config: the run.
        board: receives rows and scores; a new board by default.
        parent_run: id of the sweep's MLflow run, for a trial.

    Raises:
        PreemptedError: this program was told to end.
        UserError: the first worker's error, if a user can act on it.
        ray.train.TrainingFailedError: any other failure of a worker.
    """
    board = board or new_board()
    settings = {"config": to_dict(config), "board": board, "parent_run": parent_run}
    with sigterm_notice() as notice, shown_progress(board), forwarded_notice(board, notice):
        while True:
            try:
                new_trainer(config, settings).fit()
            except TrainingFailedError as error:
                cause = root_cause(error)
                if cause is error:
                    raise
                raise cause from error
            preempted = cast(str, ray.get(board.read_preempted.remote()))
            if preempted and notice.is_set():
                raise PreemptedError(preempted)
            if not preempted:
                return
            log.warning("a node is drained, %s: starting the workers elsewhere", preempted)


def new_trainer(config: ExperimentConfig, settings: dict[str, Any]) -> TorchTrainer:
    """Return Ray's trainer for the config's workers."""
    compute = config.compute
    cuda = compute.device == "cuda"
    return TorchTrainer(
        ray_worker,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=worker_count(compute),  # type: ignore[arg-type]
            use_gpu=cuda,
            resources_per_worker=worker_resources(compute),
        ),
        run_config=RunConfig(
            name=Path(config.run_dir).name,
            storage_path=str(Path(config.run_dir).resolve() / "ray"),
            # Without a limit, Ray restarts a controller that can never succeed for ever. It also
            # fails if it counts on a lost node before Ray has noticed the loss.
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=compute.max_restarts, controller_failure_limit=compute.max_restarts
            ),
        ),
    )


@contextmanager
def forwarded_notice(board: ActorHandle, notice: Event) -> Iterator[None]:
    """While the body runs, forward this program's notice to end to the board and so to workers."""
    over = Event()

    def forward() -> None:
        while not over.wait(ASK_SECONDS):
            if notice.is_set():
                board.stop.remote()
                return

    thread = Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ray_worker(settings: dict[str, Any]) -> None:
    """Run `worker` inside Ray Train; rank 0 posts to the board and tracks in MLflow.

    The error of a preempted run stops here: Ray would count a failure and restart the workers.
    """
    config = from_dict(ExperimentConfig, settings["config"])
    board: ActorHandle = settings["board"]
    notice = notice_of_ray(board)
    with suppress(PreemptedError):
        if rank() == 0:
            rank_zero_worker(config, board, settings["parent_run"], notice)
        else:
            worker(config, notice=notice)


def rank_zero_worker(
    config: ExperimentConfig, board: ActorHandle, parent_run: str, notice: Event
) -> None:
    """Run `worker` on rank 0: log to the board, track in MLflow, report to Prometheus."""
    logging.getLogger().addHandler(BoardHandler(board))
    logging.getLogger("jobs.worker").setLevel(logging.INFO)
    try:
        with tracked(config, parent_run) as trackers:
            reports: list[Report] = [board.post.remote, TrainingMeters(), *trackers]
            worker(config, reports, [board.score.remote], notice)
    except PreemptedError as error:
        ray.get(board.preempt.remote(str(error)))
        raise


def notice_of_ray(board: ActorHandle) -> Event:
    """Return an event that is set when a worker's node is drained or the program is told to end."""
    notice = Event()

    def ask() -> None:
        # `get_preemption_info` is collective: all workers call it equally often.
        while get_preemption_info() is None:
            with suppress(ActorUnavailableError):  # passing; the next round asks again
                if ray.get(board.stopping.remote()):
                    notice.set()
            time.sleep(ASK_SECONDS)
        notice.set()

    Thread(target=ask, daemon=True).start()
    return notice


def new_board() -> ActorHandle:
    """Start a board for one run, on this node, which outlives the workers' nodes."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    board: ActorHandle = Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    return board


def worker_count(compute: ComputeConfig) -> int | tuple[int, int]:
    """Return the number of workers, or the smallest and largest number of an elastic run."""
    if compute.fewest_workers == compute.num_workers:
        return compute.num_workers
    return (compute.fewest_workers, compute.num_workers)


def worker_resources(compute: ComputeConfig) -> dict[str, float]:
    """Return the CPUs and GPUs that Ray reserves for one worker."""
    cuda = compute.device == "cuda"
    return {"CPU": compute.cpus_per_worker, **({"GPU": compute.gpus_per_worker} if cuda else {})}


def connect(config: ExperimentConfig, *, wait: bool = True) -> None:
    """Join the Ray cluster that RAY_ADDRESS names, or start one on this machine.

    Args:
        config: the run whose workers have to fit.
        wait: allow a named cluster that is too small, as it may still grow.

    Raises:
        InputError: there are fewer CPUs or GPUs than the workers ask for.
    """
    named = join()
    compute = config.compute
    fit = room_for_workers(compute)
    if fit >= compute.fewest_workers:
        return
    each = " and ".join(f"{count:g} {kind}" for kind, count in worker_resources(compute).items())
    there = "; ".join(
        " and ".join(f"{node.get(kind, 0):g} {kind}" for kind in worker_resources(compute))
        for node in node_resources()
    )
    message = (
        f"compute.num_workers: {compute.fewest_workers} workers ask for {each} each, there is room "
        f"for {fit} (by node: {there})"
    )
    if not (named and wait):
        raise InputError(f"{message}; lower it, or compute.cpus_per_worker or gpus_per_worker")
    log.warning("%s: waiting for the cluster to grow", message)


def node_resources() -> list[dict[str, float]]:
    """Return the resources of each living node of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room_for_workers(compute: ComputeConfig) -> int:
    """Return the number of workers that fit into the cluster, each within one node."""
    each = {kind: count for kind, count in worker_resources(compute).items() if count > 0}
    if not each:
        return compute.num_workers
    return sum(
        min(count_fitting(node.get(kind, 0.0), count, kind) for kind, count in each.items())
        for node in node_resources()
    )


def count_fitting(there: float, count: float, kind: str) -> int:
    """Return how many times `count` of a resource fits into a node; a GPU share into one GPU."""
    slack = 1e-6  # rounding of Ray's own sums
    if kind == "GPU" and count < 1:
        return int(there + slack) * int(1 / count + slack)
    return int(there / count + slack)


def root_cause(error: TrainingFailedError) -> Exception:
    """Return the first error that a user can act on, as other ranks only report a lost peer."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for _, cause in sorted(failures.items()):
        if isinstance(cause, UserError):
            return cause
    lost = [n for n, cause in sorted(failures.items()) if isinstance(cause, LOST_WORKER_ERRORS)]
    if lost:
        return WorkersLostError(f"workers {lost} died; --resume goes on from the last checkpoint")
    return error
