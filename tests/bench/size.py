"""Train the published model at full size for two steps, and say what memory that takes.

`python -m tests.bench.size FOLDER` writes a subject of random numbers with subject 1's voxels and
CLIP's token shape, takes two optimizer steps of `mindeye1-subj01` through DeepSpeed with bf16
states, saves, reloads and compares. Needs 22 GiB of memory, 12 GB of disk and no GPU.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from mindeye_dist.checkpoint import Checkpoints, TrainingState, read_shapes, read_weights
from mindeye_dist.data.simulate import NSD_VOXELS
from mindeye_dist.engine.backends import whole_shapes
from mindeye_dist.engine.journal import read_journal
from mindeye_dist.inference import Predictor
from tests.conftest import write_random_subject

STEPS, BATCH = 2, 2


def main() -> None:
    """Write the subject, train, reload, and write size.json."""
    folder = Path(sys.argv[1])
    num_voxels = NSD_VOXELS["subj01"]
    write_random_subject(folder / "data", num_voxels, (257, 768), STEPS * BATCH)
    run_dir = folder / "run"
    peak, seconds = watch(command(folder / "data", run_dir))
    newest = Checkpoints(str(run_dir), 1).newest()
    losses = [row["train/total"] for row in read_journal(str(run_dir)) if "train/total" in row]
    shapes = read_shapes(newest)
    predictor = Predictor(newest)
    stored = read_weights(newest)
    equal = all(bool((w == stored[n]).all()) for n, w in predictor.model.named_parameters())
    TrainingState(newest, whole_shapes(predictor.model))("backbone.output.weight")
    voxels = np.random.default_rng(0).standard_normal((2, num_voxels)).astype(np.float32)
    embedded = predictor.embed(voxels)
    result = {
        "parameters": sum(p.numel() for p in predictor.model.parameters()),
        "num_voxels": shapes.num_voxels,
        "losses": losses,
        "peak_resident_gib": round(peak / 2**30, 2),
        "seconds": round(seconds),
        "checkpoint_gib": round(sum(f.stat().st_size for f in newest.iterdir()) / 2**30, 2),
        "reloaded_equal": equal,
        "embedding": list(embedded.shape),
        "embedding_finite": bool(np.isfinite(embedded).all()),
    }
    text = json.dumps(result, indent=1)
    (folder / "size.json").write_text(text)
    sys.stdout.write(text + "\n")


def command(data: Path, run_dir: Path) -> list[str]:
    """Return the training command, as a user would give it."""
    settings = {
        "data.url": data,
        "data.targets": "random",
        "run-dir": run_dir,
        "training.epochs": 1,
        "training.global-batch-size": BATCH,
        "optimizer.warmup-epochs": 0.5,
        "compute.states": "bf16",
        "tracking.mlflow": "off",
        "tracking.every-steps": 1,
    }
    flags = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    train = ["jobs/train.py", "--without-ray", "--recipe", "mindeye1-subj01", "--overwrite"]
    return [*torchrun, *train, *flags]


def watch(arguments: list[str]) -> tuple[int, float]:
    """Run a command and return the peak resident memory of its process tree, and its seconds."""
    begun, peak = time.monotonic(), 0
    with subprocess.Popen(arguments) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(tree))
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"training ended with {process.returncode}")
    return peak, time.monotonic() - begun


def resident(tree: psutil.Process) -> int:
    """Return the resident bytes of a process and all below it."""
    total = 0
    for process in [tree, *tree.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main()
