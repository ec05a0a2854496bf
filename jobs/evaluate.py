"""Evaluate a run: `python jobs/evaluate.py [--run-dir runs/demo]` -> report.json, report.html.

Retrieval on the test split, beside chance, ridge, shuffled brains and, for a simulated subject, the
ceiling; with a low-level run beside it, its blurry pictures too.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from jobs.command import clear_errors, place
from mindeye_dist.checkpoint import CheckpointError, Checkpoints
from mindeye_dist.data.shards import read_manifest
from mindeye_dist.data.store import Store
from mindeye_dist.engine.journal import read_journal, read_summary
from mindeye_dist.evaluate import evaluate, evaluate_lowlevel
from mindeye_dist.inference import Predictor
from mindeye_dist.models.codecs import open_codec
from mindeye_dist.report import LowLevel, write_report


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score a checkpoint on the test split and write its report."""

    run_dir: str = "runs/demo"
    """Run to evaluate; the checkpoint of its best validation is taken."""
    checkpoint: str = ""
    """Folder of one checkpoint, instead of the run's best."""
    lowlevel_run_dir: str = ""
    """Run of the low-level pipeline; by default RUN_DIR-lowlevel, where there is one."""
    codec: str = ""
    """What made the latents, where it needs weights: a folder or hub name of a VAE, or a folder
    with TAEF2."""
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
        path = Path(options.checkpoint) if options.checkpoint else best(options.run_dir)
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
        lowlevel = lowlevel_run(options, run_dir)
        if lowlevel:
            evaluation = replace(
                evaluation, lowlevel=judge_lowlevel(options, best(lowlevel), store)
            )
        out = Path(options.out) if options.out else run_dir
        page = write_report(out, evaluation, read_journal(str(run_dir)), read_summary(str(run_dir)))
        for name, row in evaluation.report["retrieval"].items():
            if isinstance(row, dict):
                print(
                    f"{name:15s} brain_to_image {row['brain_to_image']['top1']:6.1%}   "
                    f"image_to_brain {row['image_to_brain']['top1']:6.1%}"
                )
        if evaluation.lowlevel:
            for name in ("model", "ridge", "mean_picture", "shuffled"):
                print(
                    f"{name:15s} PixCorr {evaluation.lowlevel.report[name]['pixcorr']['mean']:.3f}"
                )
        print(page)


def lowlevel_run(options: Evaluate, run_dir: Path) -> str:
    """Return the low-level run's folder, empty where there is none."""
    beside = f"{run_dir}-lowlevel"
    return options.lowlevel_run_dir or (beside if Path(beside, "checkpoints").exists() else "")


def judge_lowlevel(options: Evaluate, checkpoint: Path, store: Store) -> LowLevel:
    """Return the evaluation of a low-level checkpoint."""
    predictor = Predictor(checkpoint, options.device)
    trained = predictor.shapes.targets["latents"]
    return evaluate_lowlevel(
        predictor,
        open_codec(trained.encoder, options.codec, trained.shape, options.device),
        store,
        read_manifest(store),
        num_examples=options.num_examples,
        seed=options.seed,
    )


def best(run_dir: str) -> Path:
    """Return a run's best checkpoint.

    Raises:
        CheckpointError: the run has no good checkpoint.
    """
    found = Checkpoints(place(run_dir), 1).best()
    if found is None:
        raise CheckpointError(f"{place(run_dir)}: has no good checkpoint")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
