"""Train the published model at full size for two steps, and say what memory that takes.

`python -m bench.size FOLDER` writes a subject of random numbers with subject 1's voxels and
CLIP's token shape, takes two optimizer steps of `mindeye1-subj01` through DeepSpeed with bf16
states, resumes from the first of them in another process, and ends with an error unless losses are
finite, memory stays below 22 GiB and both ends are the same to the bit. Needs 18 GB of disk and no
GPU.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.runs.checkpoints import MANIFEST, verify
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.simulation.nsd import NSD_VOXELS
from tests.conftest import write_random_subject

STEPS, BATCH, LIMIT_GIB = 2, 2, 22


def main() -> None:
    """Write the subject, train, resume from the first step, compare, and write size.json."""
    folder = Path(sys.argv[1])
    num_voxels = NSD_VOXELS["subj01"]
    write_random_subject(folder / "data", num_voxels, (257, 768), STEPS * BATCH)
    run, again = folder / "run", folder / "again"
    peaks, seconds = watch(command(folder / "data", run, "--overwrite"), run)
    first, newest = (run / "checkpoints" / f"step-{step:08d}" for step in (1, STEPS))
    shutil.rmtree(again, ignore_errors=True)
    (again / "checkpoints").mkdir(parents=True)
    first.rename(again / "checkpoints" / first.name)
    watch(command(folder / "data", again, "--resume"), again)
    resumed = again / "checkpoints" / newest.name
    predictor = Predictor(newest)
    voxels = np.random.default_rng(0).standard_normal((2, num_voxels)).astype(np.float32)
    embedded = predictor.embed(voxels)
    losses = [row["train/total"] for row in read_journal(str(run)) if "train/total" in row]
    result = {
        "parameters": sum(p.numel() for p in predictor.model.parameters()),
        "losses": losses,
        "peak_resident_gib": {phase: round(peak / 2**30, 2) for phase, peak in peaks.items()},
        "seconds": round(seconds),
        "checkpoint_gib": round(sum(f.stat().st_size for f in newest.iterdir()) / 2**30, 2),
        "resumed_equal": digests(resumed) == digests(newest),
        "embedding": list(embedded.shape),
    }
    text = json.dumps(result, indent=1)
    (folder / "size.json").write_text(text)
    sys.stdout.write(text + "\n")
    for path in (run, again, folder / "data"):
        shutil.rmtree(path)
    holds = {
        "losses are finite": len(losses) == STEPS and bool(np.isfinite(losses).all()),
        f"peak is below {LIMIT_GIB} GiB": max(peaks.values()) <= LIMIT_GIB * 2**30,
        "the resumed run ends with the same weights and moments": result["resumed_equal"],
        "embeddings are finite": bool(np.isfinite(embedded).all()),
    }
    if broken := [what for what, is_so in holds.items() if not is_so]:
        sys.exit(f"does not hold: {'; '.join(broken)}")


def digests(checkpoint: Path) -> dict[str, str]:
    """Return the digests of a checkpoint's weights and optimizer state."""
    verify(checkpoint)
    files: dict[str, str] = json.loads((checkpoint / MANIFEST).read_text())
    return {name: digest for name, digest in files.items() if name.endswith(".safetensors")}


def command(data: Path, run_dir: Path, flag: str) -> list[str]:
    """Return the training command, as a user would give it."""
    settings = {
        "data.url": data,
        "data.targets": "random",
        "run-dir": run_dir,
        "training.epochs": 1,
        "training.global-batch-size": BATCH,
        "optimizer.warmup-epochs": 0.5,
        "checkpoint.every-steps": 1,
        "checkpoint.in-background": False,  # the copy would not fit
        "compute.states": "bf16",
        "tracking.mlflow": "off",
        "tracking.every-steps": 1,
    }
    flags = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    train = ["jobs/train.py", "--without-ray", "--recipe", "mindeye1-subj01", flag]
    return [*torchrun, *train, *flags]


def watch(arguments: list[str], run_dir: Path) -> tuple[dict[str, int], float]:
    """Run a command and return its seconds and the peak resident memory of its process tree.

    The peaks are those before the first checkpoint is begun, and after.
    """
    begun, peaks = time.monotonic(), dict.fromkeys(("first step", "saving and after"), 0)
    with subprocess.Popen(arguments) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            saved = (run_dir / "checkpoints").exists()
            phase = "saving and after" if saved else "first step"
            peaks[phase] = max(peaks[phase], resident(tree))
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"training ended with {process.returncode}")
    return peaks, time.monotonic() - begun


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
