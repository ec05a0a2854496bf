"""Evaluate a run: `python jobs/evaluate.py [--run-dir runs/demo]` -> report.json, report.html.

Retrieval on the test split, beside chance, ridge, shuffled brains and, for a simulated subject, the
ceiling; with a low-level run beside it, its blurry pictures too. A low-level checkpoint by itself
has those alone.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from jobs.command import KNOWN_ERRORS, clear_errors, place
from jobs.encoders import open_split, while_training
from jobs.worker import data_shapes
from mindeye_dist.checkpoint import CheckpointError, Checkpoints
from mindeye_dist.data.loader import Dataset
from mindeye_dist.data.shards import Manifest, read_manifest
from mindeye_dist.data.store import DataError, Store
from mindeye_dist.engine.journal import read_journal, read_summary
from mindeye_dist.evaluate import (
    EvaluationData,
    check_codec,
    check_data,
    evaluate,
    evaluate_lowlevel,
    evaluate_lowlevel_alone,
)
from mindeye_dist.inference import Predictor
from mindeye_dist.models.codecs import LatentCodec, open_codec
from mindeye_dist.report import Evaluation, write_report
from mindeye_dist.shapes import TargetShape

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score a checkpoint on the test split and write its report."""

    run_dir: str = "runs/demo"
    """Run to evaluate; the checkpoint of its best validation is taken."""
    checkpoint: str = ""
    """Folder of one checkpoint, instead of the run's best."""
    lowlevel_run_dir: str = ""
    """Run of the low-level pipeline; by default RUN_DIR-lowlevel, where it can be evaluated."""
    codec: str = ""
    """What made the latents, where it needs weights: a folder or hub name of a VAE, or a folder
    with TAEF2."""
    codec_subfolder: str = ""
    """Where in --codec the VAE is (`vae` in a whole pipeline)."""
    data_url: str = ""
    """Where the shards are, if not where the checkpoint's config says."""
    out: str = ""
    """Folder for the report; by default the run's, or for a checkpoint of no run CHECKPOINT-report
    beside it."""
    device: Literal["cpu", "cuda"] = "cpu"
    num_examples: int = 12
    """Retrieval examples on the page, each direction."""
    seed: int = 0


@dataclass(frozen=True)
class LowLevelParts:
    """A low-level checkpoint, the codec of its latents and the data to evaluate both on."""

    predictor: Predictor
    codec: LatentCodec
    data: EvaluationData


def main(arguments: list[str]) -> None:
    """Parse the command line, evaluate, write the report and print its essence."""
    with clear_errors():
        options = tyro.cli(Evaluate, args=arguments, description=__doc__)
        path = best(options.run_dir) if not options.checkpoint else given(options.checkpoint)
        run_dir = path.parent.parent if path.parent.name == "checkpoints" else None
        out = report_folder(options, path, run_dir)
        predictor = Predictor(path, options.device)
        store = Store(place(options.data_url) if options.data_url else predictor.config.data.url)
        evaluation = judge(options, predictor, store, run_dir)
        journal = (read_journal(str(run_dir)), read_summary(str(run_dir))) if run_dir else ([], {})
        page = write_report(out, evaluation, *journal)
        print_scores(evaluation)
        print(page)


def given(checkpoint: str) -> Path:
    """Return the folder of a checkpoint that was named."""
    return Path(place(checkpoint)).resolve()


def best(run_dir: str) -> Path:
    """Return a run's best checkpoint.

    Raises:
        CheckpointError: the run has no good checkpoint.
    """
    found = Checkpoints(place(run_dir), 1).best()
    if found is None:
        raise CheckpointError(f"{place(run_dir)}: has no good checkpoint")
    return found


def report_folder(options: Evaluate, checkpoint: Path, run_dir: Path | None) -> Path:
    """Return where the report goes.

    Raises:
        ValueError: that would be inside the checkpoint, which strangers make invalid.
    """
    if not options.out:
        return run_dir or checkpoint.with_name(f"{checkpoint.name}-report")
    out = Path(place(options.out)).resolve()
    if out.is_relative_to(checkpoint):
        raise ValueError(f"--out: got {out}, expected a folder outside the checkpoint")
    return out


def judge(
    options: Evaluate, predictor: Predictor, store: Store, run_dir: Path | None
) -> Evaluation:
    """Return the evaluation of a checkpoint of either pipeline, with what belongs to it."""
    manifest = read_manifest(store)
    chosen = {"num_examples": options.num_examples, "seed": options.seed}
    if predictor.config.pipeline == "lowlevel":
        if options.lowlevel_run_dir:
            raise ValueError(
                f"--lowlevel-run-dir: got {options.lowlevel_run_dir}, but {predictor.path} is of "
                "the low-level pipeline itself"
            )
        own = lowlevel_parts(options, predictor, store, manifest)
        return evaluate_lowlevel_alone(own.predictor, own.codec, own.data, **chosen)
    # Both are opened before either is evaluated: what is wrong is said at once.
    data = open_data(predictor, store, manifest, options.device)
    check_data(predictor, data)
    beside = lowlevel_beside(options, predictor, store, manifest, run_dir)
    evaluation = evaluate(predictor, data, **chosen)
    if beside is None:
        return evaluation
    lowlevel = evaluate_lowlevel(beside.predictor, beside.codec, beside.data, **chosen)
    return replace(evaluation, lowlevel=lowlevel)


def open_data(
    predictor: Predictor, store: Store, manifest: Manifest, device: Literal["cpu", "cuda"]
) -> EvaluationData:
    """Return a checkpoint's data: with stored targets, or computed ones as it was trained on."""
    config = predictor.config
    config = replace(config, compute=replace(config.compute, device=device))
    if config.pipeline == "lowlevel":
        # The teacher is for training alone, and its maps are not needed here.
        name = config.data.latents
        stored = manifest.subject(config.data.subject).target_set("latents", name)
        opened = {
            split: Dataset(store, manifest, config.data, split, {"latents": name})
            for split in SPLITS
        }
        targets = TargetShape(stored.shape, stored.encoder, stored.digest)
    else:
        encoder = while_training(config, store)
        opened = {split: open_split(config, store, manifest, split, encoder) for split in SPLITS}
        targets = data_shapes(manifest, config, encoder).targets["clip_tokens"]
    return EvaluationData(splits=opened, targets=targets, manifest=manifest)


def lowlevel_beside(
    options: Evaluate,
    predictor: Predictor,
    store: Store,
    manifest: Manifest,
    run_dir: Path | None,
) -> LowLevelParts | None:
    """Return the low-level run that goes with a high-level checkpoint, where there is one.

    One that was found and not named is left out where it cannot be evaluated, and that is said.
    """
    named = options.lowlevel_run_dir
    folder = named or (f"{run_dir}-lowlevel" if run_dir else "")
    if not named and not (folder and Path(folder, "checkpoints").exists()):
        return None
    try:
        own = Predictor(best(folder), options.device)
        if own.config.pipeline != "lowlevel":
            raise CheckpointError(f"{own.path}: is of the {own.config.pipeline} pipeline")
        subject, other = own.config.data.subject, predictor.config.data.subject
        if subject != other:
            raise DataError(f"{own.path}: is of {subject}, {predictor.path} of {other}")
        return lowlevel_parts(options, own, store, manifest)
    except KNOWN_ERRORS as error:
        if named:
            raise
        print(f"left out the low-level run {folder}: {error}", file=sys.stderr)
        return None


def lowlevel_parts(
    options: Evaluate, predictor: Predictor, store: Store, manifest: Manifest
) -> LowLevelParts:
    """Return a low-level checkpoint with its codec and data, which fit it."""
    data = open_data(predictor, store, manifest, options.device)
    check_data(predictor, data)
    trained = predictor.shapes.targets["latents"]
    codec = open_codec(
        data.targets.encoder,
        options.codec,
        trained.shape,
        options.device,
        subfolder=options.codec_subfolder,
    )
    check_codec(predictor, codec)
    return LowLevelParts(predictor, codec, data)


def print_scores(evaluation: Evaluation) -> None:
    """Print the essence of an evaluation, a line for each row of its tables."""
    for name, row in evaluation.report.get("retrieval", {}).items():
        if isinstance(row, dict):
            print(
                f"{name:15s} brain_to_image {row['brain_to_image']['top1']:6.1%}   "
                f"image_to_brain {row['image_to_brain']['top1']:6.1%}"
            )
    if evaluation.lowlevel:
        for name in ("model", "ridge", "mean_picture", "shuffled"):
            print(f"{name:15s} PixCorr {evaluation.lowlevel.report[name]['pixcorr']['mean']:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
