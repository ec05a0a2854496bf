"""Not a test: processes of their own, forked from one that has imported torch and DeepSpeed."""

import faulthandler
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mindeye_dist.distributed import leave
from tests.s3 import free_ports

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preloaded"])


def start(target: Callable[..., None], *arguments: Any, said: Path) -> BaseProcess:
    """Start `target(*arguments)` with this process's environment; `said` takes its output."""
    process = CONTEXT.Process(target=_run, args=(dict(os.environ), str(said), target, arguments))
    process.start()
    return process


def run_ranks(target: Callable[..., None], *arguments: Any, count: int, folder: Path) -> None:
    """Run `target(*arguments)` on `count` ranks of a gloo group, as torchrun would.

    Raises:
        AssertionError: a rank failed, or they took over five minutes; with what it said.
    """
    ranks = start_ranks(target, *arguments, count=count, folder=folder)
    deadline = time.monotonic() + 300
    try:
        while any(process.exitcode is None for process in ranks):
            assert time.monotonic() < deadline, "the ranks did not end"
            if any(process.exitcode for process in ranks):
                break
            time.sleep(0.02)
        for rank, process in enumerate(ranks):
            assert not process.exitcode, said_by(rank, count, folder)[-8000:]
    finally:
        for process in ranks:
            process.kill()
            process.join()


def start_ranks(
    target: Callable[..., None], *arguments: Any, count: int, folder: Path
) -> list[BaseProcess]:
    """Start `target(*arguments)` on `count` ranks of a gloo group, as torchrun would."""
    (port,) = free_ports(1)
    return [
        start(
            _rank, rank, count, port, target, arguments, said=folder / f"rank-{rank}-of-{count}.log"
        )
        for rank in range(count)
    ]


def said_by(rank: int, count: int, folder: Path) -> str:
    """Return what a rank has said so far."""
    return (folder / f"rank-{rank}-of-{count}.log").read_text()


def _run(
    environment: dict[str, str], said: str, target: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    faulthandler.enable()
    torch.set_num_threads(1)
    target(*arguments)


def _rank(
    rank: int, count: int, port: int, target: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    dist.init_process_group("gloo")
    target(*arguments)
    leave()
