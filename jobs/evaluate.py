"""Evaluate a run: `python jobs/evaluate.py [--run-dir runs/demo]` -> report.json, report.html.

Retrieval on the test split, beside chance, ridge, shuffled brains and, for a simulated subject, the
ceiling.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs.command import clear_errors, place
from mindeye_dist.checkpoint import CheckpointError, Checkpoints
from mindeye_dist.data.shards import read_manifest
from mindeye_dist.data.store import Store
from mindeye_dist.engine.journal import read_journal, read_summary
from mindeye_dist.evaluate import evaluate
from mindeye_dist.inference import Predictor
from mindeye_dist.report import write_report


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score a checkpoint on the test split and write its report."""

    run_dir: str = "runs/demo"
    """Run to evaluate; the checkpoint of its best validation is taken."""
    checkpoint: str = ""
    """Folder of one checkpoint, instead of the run's best."""
    data_url: str = ""
    """Where the shards are, if not where the checkpoint's config says."""
    out: str = ""
    """Folder for the report; the run's by default."""
    device: str = "cpu"
    num_examples: int = 12
    """Retrieval examples on the page, each direction."""
    seed: int = 0


def main(arguments: list[str]) -> None:
    """Parse the command line, evaluate, write the report and print its essence."""
    with clear_errors():
        options = tyro.cli(Evaluate, args=arguments, description=__doc__)
        path = choose(options)
        run_dir = path.parent.parent
        predictor = Predictor(path, options.device)
        store = Store(options.data_url or predictor.config.data.url)
        evaluation = evaluate(
            predictor,
            store,
            read_manifest(store),
            num_examples=options.num_examples,
            seed=options.seed,
        )
        out = Path(options.out) if options.out else run_dir
        page = write_report(out, evaluation, read_journal(str(run_dir)), read_summary(str(run_dir)))
        for name, row in evaluation.report["retrieval"].items():
            if isinstance(row, dict):
                print(
                    f"{name:15s} brain_to_image {row['brain_to_image']['top1']:6.1%}   "
                    f"image_to_brain {row['image_to_brain']['top1']:6.1%}"
                )
        print(page)


def choose(options: Evaluate) -> Path:
    """Return the checkpoint to evaluate.

    Raises:
        CheckpointError: the run has no good checkpoint.
    """
    if options.checkpoint:
        return Path(options.checkpoint)
    best = Checkpoints(place(options.run_dir), 1).best()
    if best is None:
        raise CheckpointError(f"{place(options.run_dir)}: has no good checkpoint")
    return best


if __name__ == "__main__":
    main(sys.argv[1:])
