"""Evaluate a checkpoint on the test split: report.json, report.html and a summary on stdout.

Retrieval beside chance, ridge, shuffled brains and, for a simulated subject, the ceiling; the
low-level pictures of the run beside it; pictures drawn by a generator that takes the checkpoint's
tokens, beside their controls. A low-level checkpoint has only its low-level pictures.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from jobs.command import SCHEME, absolute_path, local_path, watched
from jobs.opening.checkpoints import (
    checkpoint_encoder,
    chosen_checkpoint,
    data_store,
    open_data,
    open_latent_codec,
    open_lowlevel_run,
)
from jobs.opening.generators import open_generator
from jobs.opening.judges import open_judges
from jobs.options.evaluate import Evaluate
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import Manifest, read_manifest
from mindeye_dist.decoding.pools.faiss_pool import Pool
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.decoding.reconstruction_shards import (
    read_matching_record,
    read_reconstructions,
    reconstruction_provenance,
)
from mindeye_dist.decoding.reconstructor import LowLevelPipeline, Reconstructor
from mindeye_dist.errors import InputError, UserError
from mindeye_dist.evaluation.data import EvaluationData, check_data
from mindeye_dist.evaluation.lowlevel import evaluate_lowlevel, evaluate_lowlevel_alone
from mindeye_dist.evaluation.pictures import (
    PictureSettings,
    StoredReconstructions,
    evaluate_pictures,
)
from mindeye_dist.evaluation.results import Evaluation
from mindeye_dist.evaluation.retrieval import evaluate_retrieval
from mindeye_dist.frozen.codecs import LatentCodec
from mindeye_dist.reports.page import write_report
from mindeye_dist.reports.words import FACTOR_NAMES
from mindeye_dist.runs.journal import read_journal, read_summary
from mindeye_dist.storage.store import Store


@dataclass(frozen=True)
class LowLevelParts:
    """A low-level checkpoint, the codec of its latents and the data to evaluate both on."""

    predictor: Predictor
    codec: LatentCodec
    data: EvaluationData


def report_folder(options: Evaluate, checkpoint: Path, run_dir: Path | None) -> Path:
    """Return the folder of the report.

    Raises:
        InputError: --out is a URL, or inside the checkpoint, which other files would make invalid.
    """
    if not options.out and options.checkpoint.startswith(SCHEME):
        name = options.checkpoint.removeprefix(SCHEME).replace("@", "-").replace("/", "-")
        return Path(absolute_path(f"runs/{name}"))
    if not options.out:
        return run_dir or checkpoint.with_name(f"{checkpoint.name}-report")
    out = Path(local_path(options.out, "out")).resolve()
    if out.is_relative_to(checkpoint):
        raise InputError(f"--out: got {out}, expected a folder outside the checkpoint")
    return out


def evaluate_checkpoint(
    options: Evaluate, predictor: Predictor, store: Store, run_dir: Path | None
) -> Evaluation:
    """Evaluate a checkpoint of either pipeline, with its low-level run and pictures."""
    manifest = read_manifest(store)
    chosen = {"num_examples": options.num_examples, "seed": options.seed}
    if predictor.config.pipeline == "lowlevel":
        if options.lowlevel_run_dir:
            raise InputError(
                f"--lowlevel-run-dir: got {options.lowlevel_run_dir}, but {predictor.path} is of "
                "the low-level pipeline itself"
            )
        own = lowlevel_parts(options, predictor, store, manifest)
        return evaluate_lowlevel_alone(own.predictor, own.codec, own.data, **chosen)
    # Both are opened before either is evaluated, so that errors come at once.
    data = open_data(predictor, store, manifest, options.device)
    check_data(predictor, data)
    reconstructor = open_highlevel_reconstructor(options, predictor, store)
    beside = open_lowlevel_run(
        options,
        predictor,
        run_dir,
        lambda own: lowlevel_parts(options, own, store, manifest),
        drawn_over=reconstructor is not None,
    )
    if reconstructor is not None and beside is not None:
        pipeline = LowLevelPipeline(beside.predictor, beside.codec)
        reconstructor = replace(reconstructor, lowlevel=pipeline)
    judges = open_judges(options.networks, store, options.device) if reconstructor else None
    stored = open_stored(options, reconstructor, data.splits["test"]) if reconstructor else None
    pool = Pool(Path(absolute_path(options.pool)), data.targets) if options.pool else None
    print("scoring retrieval, ridge and the linear decoders beside it", file=sys.stderr)
    evaluation = evaluate_retrieval(predictor, data, **chosen)
    if beside is not None:
        print("scoring the low-level pictures", file=sys.stderr)
        lowlevel = evaluate_lowlevel(beside.predictor, beside.codec, beside.data, **chosen)
        evaluation = replace(evaluation, lowlevel=lowlevel)
    if reconstructor is not None and judges is not None:
        settings = PictureSettings(
            pictures=options.pictures,
            control_candidates=options.control_candidates,
            seed=options.seed,
        )
        result = evaluate_pictures(reconstructor, data, judges, settings, pool, stored)
        evaluation = replace(evaluation, reconstructions=result)
    return evaluation


def open_highlevel_reconstructor(
    options: Evaluate, predictor: Predictor, store: Store
) -> Reconstructor | None:
    """Return the reconstructor of a checkpoint, if a generator takes its tokens.

    One that was not asked for is left out where it does not fit, and that is said.
    """
    if not options.pictures:
        return None
    try:
        return Reconstructor(
            predictor,
            open_generator(replace(options.draw, device=options.device)),
            checkpoint_encoder(
                predictor,
                store,
                options.device,
                weights=options.encoder_weights,
                antialias=options.encoder_antialias,
            ),
            options.reconstruction,
            watch=lambda batches: watched(batches, "drawing pictures, batch"),
        )
    except UserError as error:
        asked = ("draw", "networks", "reconstruction", "reconstructions", "pool", "pictures")
        names = (*asked, "control_candidates")
        if any(getattr(options, name) != getattr(Evaluate(), name) for name in names):
            raise
        print(f"left out the pictures: {error}; --draw names a generator", file=sys.stderr)
        return None


def open_stored(
    options: Evaluate, reconstructor: Reconstructor, test: Dataset
) -> StoredReconstructions | None:
    """Open the set of reconstructions given by --reconstructions.

    Raises:
        DataError: the set is incomplete, or was made by other models, settings or voxels.
    """
    if not options.reconstructions:
        return None
    store = Store(absolute_path(options.reconstructions))
    expected = reconstruction_provenance(reconstructor, "test", "average", options.device)
    record = read_matching_record(store, expected, test.store, test.samples)
    return partial(read_reconstructions, store, record)


def lowlevel_parts(
    options: Evaluate, predictor: Predictor, store: Store, manifest: Manifest
) -> LowLevelParts:
    """Return a low-level checkpoint with its codec and data, checked to fit."""
    data = open_data(predictor, store, manifest, options.device)
    check_data(predictor, data)
    return LowLevelParts(predictor, open_latent_codec(options, predictor), data)


def print_scores(evaluation: Evaluation) -> None:
    """Print the main scores of an evaluation, one line for each row of its tables."""
    for name, row in evaluation.report.get("retrieval", {}).items():
        if isinstance(row, dict):
            print(
                f"{name:15s} brain_to_image {row['brain_to_image']['top1']:6.1%}   "
                f"image_to_brain {row['image_to_brain']['top1']:6.1%}"
            )
    if evaluation.lowlevel:
        for name in ("model", "ridge", "mean_picture", "shuffled"):
            pixcorr = evaluation.lowlevel.report[name]["pixcorr"]["mean"]
            print(f"low level, {name:15s} PixCorr {pixcorr:.3f}")
    if evaluation.reconstructions:
        metrics, rows = (evaluation.reconstructions.report[part] for part in ("metrics", "rows"))
        width = max(len(row["label"]) for row in rows.values())
        for row in rows.values():
            values = [
                f"{metrics[key]['label']} {score['mean']:.3f}"
                for key, score in row["scores"].items()
            ]
            print(f"{row['label']:{width}s}  {'  '.join(values)}")
        for name, row in evaluation.reconstructions.report["factors"].get("rows", {}).items():
            shares = [
                f"{FACTOR_NAMES.get(factor, factor)} {score['mean']:.0%}"
                for factor, score in row.items()
            ]
            print(f"{rows[name]['label']:{width}s}  right: {'  '.join(shares)}")


def run(options: Evaluate) -> None:
    """Evaluate, write the report and print its main scores."""
    path, run_dir = chosen_checkpoint(options)
    out = report_folder(options, path, run_dir)
    predictor = Predictor(path, options.device)
    evaluation = evaluate_checkpoint(options, predictor, data_store(options, predictor), run_dir)
    journal = (read_journal(str(run_dir)), read_summary(str(run_dir))) if run_dir else ([], {})
    page = write_report(out, evaluation, *journal)
    print_scores(evaluation)
    print(page)
