"""Not a test: runs `worker` for each config of a JSON file, alone or under torchrun."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from jobs.worker import worker
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.distributed import leave
from mindeye_dist.strict import from_dict


def main() -> None:
    """Run every config in turn."""
    torch.set_num_threads(1)
    several = "WORLD_SIZE" in os.environ
    if several:
        dist.init_process_group("gloo")
    for values in json.loads(Path(sys.argv[1]).read_text()):
        worker(from_dict(ExperimentConfig, values))
    if several:
        leave()


if __name__ == "__main__":
    main()
