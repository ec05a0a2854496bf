"""Not a test: what torchrun starts for tests of several workers. Runs `worker` for each config of a JSON file."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from jobs.launch import worker
from mindeye_dist.config import ExperimentConfig, from_dict


def main() -> None:
    """Run every config in turn, in one process group."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for values in json.loads(Path(sys.argv[1]).read_text()):
        worker(from_dict(ExperimentConfig, values))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
