"""Not a test: two ranks that save a checkpoint in the background; the second one's disk is full."""

import logging
import resource
import signal
from pathlib import Path

import torch

from mindeye_dist.distributed import barrier, rank
from mindeye_dist.runs.checkpoints import Checkpoints, Progress

SIZE = 64
KEYS = ("weight", "exp_avg", "exp_avg_sq")


def parameters(value):
    """Yield two parameters, the moments of each being the share of another rank."""
    for name in ("first", "second"):
        yield name, {key: torch.full((SIZE, SIZE), value) for key in KEYS}


def save_with_one_full_disk(folder: str) -> None:
    """Save twice, the second time in vain, and then once more; write what each rank says."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    checkpoints = Checkpoints(folder, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = logging.FileHandler(Path(folder, f"said-{rank()}"))
    logging.getLogger("mindeye_dist").addHandler(said)
    for step, value in enumerate((1.0, 2.0, 3.0), 1):
        full = step == 2 and rank() == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192 if full else soft, hard))
        checkpoints.save_in_background(Progress(step=step), parameters(value), {"config.json": {}})
        assert checkpoints.wait_for_save() == (step != 2)
        barrier()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
