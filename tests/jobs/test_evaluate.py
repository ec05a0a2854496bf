"""The evaluation job: which checkpoints, on which targets, beside what; where the report goes."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jobs import embed, evaluate
from jobs.opening import encoders
from jobs.options.embed import Embed
from jobs.options.evaluate import Evaluate
from jobs.options.generators import GeneratorOptions
from jobs.work import embed as embed_work
from jobs.work import evaluate as evaluate_work
from jobs.worker import worker
from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import read_manifest, write_manifest
from mindeye_dist.evaluation.scene_factors import FACTORS
from mindeye_dist.pictures import decode, small
from mindeye_dist.runs.checkpoints import Checkpoints, verify
from mindeye_dist.simulation.brain import make_subject
from mindeye_dist.simulation.config import SimulationConfig
from mindeye_dist.simulation.tuning import fit_feature_space
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override
from tests.jobs.test_embed import Colours
from tests.reports.test_page import Page

SHORT = {"training.epochs": 2, "training.validate_every_epochs": 1}


@pytest.fixture
def shards(write_subject, tmp_path):
    """Return the folder of the tiny subject with latents that a codec without weights decodes."""
    folder = tmp_path / "shards"
    write_subject(folder)
    codec = ["--encoder", "pixels", "--side", "4"]
    embed.main(["--data-url", str(folder), *codec, "--without-ray"])
    return folder


@pytest.fixture
def config(tiny_config, shards):
    """Return a short run of the high-level pipeline."""
    return override(tiny_config, {**SHORT, "data.url": str(shards), "data.latents": "pixels"})


@pytest.fixture
def run(config):
    """Return the folder of a finished high-level run."""
    worker(config)
    return Path(config.run_dir)


def lowlevel(config, **changes):
    """Train a low-level run beside a high-level one and return its folder."""
    run_dir = f"{config.run_dir}-lowlevel"
    worker(override(config, {"pipeline": "lowlevel", "run_dir": run_dir, **changes}))
    return Path(run_dir)


def report_in(folder):
    """Return a folder's report, and its page once it is seen to be well-formed."""
    text = (Path(folder) / "report.json").read_text()
    return json.loads(text), Page((Path(folder) / "report.html").read_text())


def fails(*arguments):
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([str(argument) for argument in arguments])
    assert str(stopped.value).startswith("error: ")
    return str(stopped.value)


# -- computed targets ------------------------------------------------------------------------------


def test_a_run_on_computed_targets(config, shards, monkeypatch):
    """Oracle: the same run on a stored set by the same encoder."""
    colours = Colours()
    monkeypatch.setattr(encoders, "target_encoder", colours.target_encoder)
    monkeypatch.setattr(embed_work, "target_encoder", colours.target_encoder)
    computed = override(config, {"data.computed.encoder": "clip-vit-l-14"})
    worker(computed)
    evaluate.main(["--run-dir", computed.run_dir])
    found, _ = report_in(computed.run_dir)
    assert found["targets"] == {"name": "computed", "encoder": "colours", "digest": "ab" * 32}

    embed_work.embed(Embed(data_url=str(shards), name="colours", without_ray=True))
    stored = override(config, {"data.targets": "colours", "run_dir": f"{config.run_dir}-stored"})
    worker(stored)
    evaluate.main(["--run-dir", stored.run_dir])
    expected, _ = report_in(stored.run_dir)
    assert found["retrieval"] == expected["retrieval"]
    assert expected["targets"]["name"] == "colours"


def test_computed_targets_of_another_encoder_are_refused(config, monkeypatch):
    colours = Colours()
    monkeypatch.setattr(encoders, "target_encoder", colours.target_encoder)
    worker(override(config, {"data.computed.encoder": "clip-vit-l-14"}))
    other = replace(colours.target_encoder(), digest="cd" * 32)
    monkeypatch.setattr(encoders, "target_encoder", lambda *_: other)
    message = fails("--run-dir", config.run_dir)
    assert "clip_tokens 'computed' are not by the encoder of" in message
    assert "(colours abababababab), but by colours cdcdcdcdcdcd" in message


@pytest.mark.parametrize("name", [DataConfig.targets, "tiny-clip_tokens"])
def test_ceilings_are_for_the_targets_of_the_simulation(config, shards, name):
    """A brain simulated from other targets than the run's has no ideal observer for them."""
    store = Store(str(shards))
    manifest = read_manifest(store)
    subject = manifest.subject("subj01")
    test = Dataset(store, manifest, config.data, "test", config.target_sets)
    pictures = np.stack([small(decode(p, "picture")) for p in test.pictures(range(9))])
    space = fit_feature_space(
        test.all_targets("clip_tokens"), pictures, num_semantic=3, num_lowlevel=1
    )
    make_subject(SimulationConfig(num_voxels=24, num_components=3, num_lowlevel=1), space).save(
        shards / "truth.safetensors"
    )
    sha256 = hashlib.sha256((shards / "truth.safetensors").read_bytes()).hexdigest()
    named = {**subject.targets, name: subject.targets["tiny-clip_tokens"]}
    subject = replace(subject, truth="truth.safetensors", truth_sha256=sha256, targets=named)
    write_manifest(store, replace(manifest, subjects={"subj01": subject}))
    worker(override(config, {"data.targets": name}))
    evaluate.main(["--run-dir", config.run_dir])
    report, page = report_in(config.run_dir)
    assert report["simulated"]
    there = {"optimal", "optimal_linear"} & report["retrieval"].keys()
    assert len(there) == (2 if name == DataConfig.targets else 0)
    assert page.says("There is no ceiling here") == (not there)


# -- the low-level pipeline alone ------------------------------------------------------------------


def test_a_lowlevel_run_by_itself(config, capsys):
    """Its report has the low-level section, the training and nothing of retrieval."""
    run_dir = lowlevel(config)
    evaluate.main(["--run-dir", str(run_dir)])
    report, page = report_in(run_dir)
    assert "retrieval" not in report
    assert report["lowlevel"]["codec"]["shape"] == [3, 4, 4]
    assert report["counts"] == {"train": 23, "val": 7, "test": 9}
    assert (report["targets"]["name"], report["targets"]["encoder"]) == ("pixels", "pixels")
    assert report["train"]["steps"] > 0
    for words in ("Low level", "This pipeline predicts a blurry picture", "9 test pictures"):
        assert page.says(words)
    for words in ("Which picture", "Top-1", "Retrieval", "Brain to image", "SoftCLIP", "Centred"):
        assert not page.says(words)
    assert len(page.named("img")) == 3 * 9, "the blurry examples alone"
    plots = [attrs["aria-label"] for attrs in page.named("svg")]
    assert len(plots) == 6
    assert any(plot.startswith("Correlation of the latents over epochs") for plot in plots)
    out = capsys.readouterr().out
    assert "PixCorr" in out
    assert "brain_to_image" not in out


def test_a_lowlevel_checkpoint_beside_itself_is_refused(config):
    run_dir = lowlevel(config)
    message = fails("--run-dir", run_dir, "--lowlevel-run-dir", run_dir)
    assert "is of the low-level pipeline itself" in message


# -- a low-level run beside a high-level one -------------------------------------------------------


def test_both_pipelines_in_one_report(config, run):
    lowlevel(config)
    evaluate.main(["--run-dir", str(run)])
    report, page = report_in(run)
    assert {"retrieval", "lowlevel"} <= report.keys()
    assert page.says("The second pipeline predicts a blurry picture")


def no_checkpoint(config, shards):
    Path(f"{config.run_dir}-lowlevel", "checkpoints").mkdir(parents=True)


def another_subject(config, shards):
    store = Store(str(shards))
    manifest = read_manifest(store)
    both = {"subj02": manifest.subject("subj01"), **manifest.subjects}
    write_manifest(store, replace(manifest, subjects=both))
    lowlevel(config, **{"data.subject": "subj02"})


def codec_with_weights(config, shards):
    path = shards / "manifest.json"
    path.write_text(path.read_text().replace('"encoder": "pixels"', '"encoder": "taef2"'))
    lowlevel(config)


def another_codec(config, shards):
    lowlevel(config)
    again = ["--encoder", "pixels", "--side", "8", "--name", "pixels", "--overwrite"]
    embed.main(["--data-url", str(shards), *again, "--without-ray"])


def another_pipeline(config, shards):
    worker(override(config, {"run_dir": f"{config.run_dir}-lowlevel"}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_checkpoint, "has no good checkpoint"),
        (another_subject, "is of subj02"),
        (codec_with_weights, "taef2: got no weights"),
        (another_codec, "latents 'pixels' are not by the encoder of"),
        (another_pipeline, "is of the highlevel pipeline"),
    ],
)
def test_a_lowlevel_run_that_cannot_be_evaluated(
    spoil, message, config, run, shards, capsys, monkeypatch
):
    """Found, and nothing drawn, it is left out in one line; named, it is an error at once."""
    spoil(config, shards)
    capsys.readouterr()
    evaluate.main(["--run-dir", str(run), "--pictures", "0"])
    report, _ = report_in(run)
    assert "retrieval" in report
    assert "lowlevel" not in report
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert said.startswith(f"left out the low-level run {run}-lowlevel: ")
    assert message in said
    monkeypatch.setattr(evaluate_work, "evaluate_retrieval", None)
    (run / "report.json").unlink()
    assert message in fails("--run-dir", run, "--lowlevel-run-dir", f"{run}-lowlevel")
    assert not (run / "report.json").exists()


# -- where the report goes -------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", ["highlevel", "lowlevel"])
def test_a_checkpoint_of_no_run(pipeline, config, tmp_path, monkeypatch, capsys):
    """As imported ones are: the report goes beside it, and the checkpoint stays whole."""
    worker(override(config, {"pipeline": pipeline}))
    imported = tmp_path / "published"
    shutil.copytree(Checkpoints(config.run_dir, 1).newest(), imported)
    monkeypatch.chdir(imported)
    evaluate.main(["--checkpoint", "."])
    verify(imported)
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'published-report' / 'report.html'}\n")
    report, page = report_in(tmp_path / "published-report")
    assert report["train"] == {}
    assert page.says("No journal found")
    message = fails("--checkpoint", imported, "--out", imported / "report")
    assert "expected a folder outside the checkpoint" in message
    verify(imported)
    evaluate.main(["--checkpoint", str(imported), "--out", str(tmp_path / "elsewhere")])
    assert report_in(tmp_path / "elsewhere")[0] == report


def test_a_report_goes_to_no_url(run, tmp_path, monkeypatch):
    """As a folder it would be a local one of that name."""
    monkeypatch.chdir(tmp_path)
    message = fails("--run-dir", run, "--out", "s3://lab/report")
    assert "out: got 's3://lab/report', expected a folder, no URL" in message
    assert not (tmp_path / "s3:").exists()


def test_the_generator_computes_where_the_others_do():
    with pytest.raises(ValueError, match="draw.device: got 'cuda', expected cpu, as --device"):
        Evaluate(draw=GeneratorOptions(device="cuda"))
    both = Evaluate(device="cuda", draw=GeneratorOptions(device="cuda"))
    assert both.draw.device == "cuda"


def test_a_checkpoint_of_a_run_reports_into_the_run(run):
    newest = Checkpoints(str(run), 1).newest()
    evaluate.main(["--checkpoint", str(newest)])
    assert report_in(run)[0]["train"]["steps"] > 0


def test_every_factor_of_a_scene_is_printed(capsys):
    score = {"mean": 0.5}
    pictures = {
        "metrics": {},
        "rows": {"model": {"label": "This model", "scores": {}}},
        "factors": {"rows": {"model": dict.fromkeys((*FACTORS, "all"), score)}},
    }
    result = SimpleNamespace(report=pictures)
    evaluate_work.print_scores(SimpleNamespace(report={}, lowlevel=None, reconstructions=result))
    said = "This model  right: kind 50%  colour 50%  place 50%  all of them 50%"
    assert said in capsys.readouterr().out
