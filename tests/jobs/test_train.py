"""The command line of training: what is wrong is said at once, and names what it is."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import tyro
from safetensors.torch import load, save

from jobs import train
from jobs.command import absolute_path
from jobs.opening.demo_data import same_tensors
from jobs.recipes import RECIPES, recipe
from jobs.work.train import lowlevel_config
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.frozen.projection import SCENES_ENCODER
from mindeye_dist.runs.checkpoints import Checkpoints, read_progress
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.strict import override, paths
from tests.conftest import flags


@pytest.fixture
def arguments(tiny_config):
    """Return the command line of the tiny run in this very process."""
    small = {"training.epochs": 2, "compute.num_workers": 1, "compute.backend": "torch"}
    return ["--without-ray", *flags(override(tiny_config, small))]


def fails(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments)
    return f"{stopped.value.code}\n{capsys.readouterr().err}", stopped.value.code


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (["--recipe", "nope"], "error: --recipe: got 'nope', expected one of demo"),
        (["--no-such-flag", "1"], "--no-such-flag"),
        (["--training.epochs", "many"], "--training.epochs"),
        (["--training.epochs", "0"], "training.epochs: got 0, expected at least 1"),
        (["--data.url", "/nowhere"], "error: /nowhere/manifest.json: cannot be read"),
        (["--data.subject", "subj02"], "error: subject 'subj02' is not in the manifest"),
        (
            ["--data.targets", "clip"],
            "error: no clip_tokens 'clip' in the manifest, only",
        ),
        (["--training.global-batch-size", "24"], "global_batch_size 24 exceeds the 23"),
        (["--resume"], "error: --resume: no good checkpoint in"),
        (["--compute.device", "cuda"], "torch sees no CUDA device"),
        (["--compute.backend", "deepspeed"], "needs a process group"),
        (["--run-dir", "s3://lab/run"], "error: run_dir: got 's3://lab/run', expected a folder"),
    ],
)
def test_what_is_wrong_is_named(capsys, arguments, added, message):
    text, code = fails(capsys, [*arguments, *added])
    assert message in " ".join(text.replace("│", " ").split())
    assert code not in (0, None)


def test_a_run_is_never_overwritten_unasked(capsys, arguments, tiny_config):
    train.main(arguments)
    newest = Checkpoints(tiny_config.run_dir, 1).newest()
    before = newest.stat().st_mtime_ns
    text, _ = fails(capsys, arguments)
    assert "holds a run; --resume goes on with it, --overwrite deletes it" in text
    assert newest.stat().st_mtime_ns == before
    keep = Path(tiny_config.run_dir) / "notes.txt"
    keep.write_text("mine")
    train.main([*arguments, "--overwrite"])
    assert keep.exists()


def test_copies_are_never_overwritten_unasked_and_gone_on_from(
    capsys, arguments, tiny_config, tmp_path
):
    """Oracle: the copies' own names and times."""
    copies = tmp_path / "copies"
    arguments = [*arguments, "--checkpoint.copy-to", str(copies)]
    train.main(arguments)
    before = {path: path.stat().st_mtime_ns for path in copies.rglob("*")}
    shutil.rmtree(tiny_config.run_dir)
    text, _ = fails(capsys, arguments)
    assert f"{copies} holds a run; --resume goes on with it, --overwrite deletes it" in text
    train.main([*arguments, "--resume"])
    assert Checkpoints(tiny_config.run_dir, 1).newest().name in {p.name for p in copies.iterdir()}
    assert {path: path.stat().st_mtime_ns for path in copies.rglob("*")} == before
    train.main([*arguments, "--overwrite", "--training.epochs", "1"])
    assert [path.name for path in copies.iterdir()] == ["step-00000003"]


def test_sigterm_is_one_line_and_an_exit_code(capsys, arguments, tiny_config):
    def tell():
        while len(read_journal(tiny_config.run_dir)) < 10:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=tell)
    thread.start()
    text, code = fails(capsys, [*arguments, "--training.epochs", "500"])
    thread.join()
    step = read_progress(Checkpoints(tiny_config.run_dir, 1).newest()).step
    assert code == f"error: preempted at step {step} of 1916; --resume goes on there"
    assert "Traceback" not in text
    assert signal.getsignal(signal.SIGTERM) == before


def test_resume_of_a_finished_run_changes_nothing(arguments, tiny_config):
    train.main(arguments)
    rows = read_journal(tiny_config.run_dir)
    train.main([*arguments, "--resume"])
    assert read_journal(tiny_config.run_dir) == rows


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_flags_and_override_give_the_same_config(name):
    """Oracle: `override` of the recipe, for one setting of every section."""
    changes = {"optimizer.max_lr": 0.5, "data.url": "s3://x/y", "compute.zero_stage": 3}
    arguments = [
        text for path, v in changes.items() for text in (f"--{path.replace('_', '-')}", str(v))
    ]
    parsed = tyro.cli(ExperimentConfig, default=recipe(name), args=arguments)
    assert parsed == override(recipe(name), changes)


def test_relative_places(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert absolute_path("runs/a") == str(tmp_path / "runs/a")
    assert absolute_path("s3://lab/a") == "s3://lab/a"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert absolute_path("runs/a") == str(Path.home() / "mindeye-dist/runs/a")
    monkeypatch.setenv("MINDEYE_HOME", "/shared/home")
    assert absolute_path("runs/a") == "/shared/home/runs/a"


def test_the_low_level_run_goes_beside(tiny_config):
    """Oracle: the low-level recipe, but for where it is, what it sees and what it runs on."""
    changes = {"compute.num_workers": 3, "data.subject": "subj02", "checkpoint.copy_to": "/copies"}
    config = override(tiny_config, changes)
    beside = lowlevel_config("demo", config)
    own = paths(recipe("demo-lowlevel"))
    theirs = paths(beside)
    changed = {path for path in own if own[path] != theirs[path]}
    assert beside.run_dir == f"{config.run_dir}-lowlevel"
    assert beside.checkpoint.copy_to == "/copies-lowlevel"
    assert beside.compute == config.compute
    assert (beside.data.url, beside.data.subject) == (config.data.url, "subj02")
    assert all(
        p.startswith(("run_dir", "data.", "checkpoint.copy_to", "compute.", "tracking."))
        for p in changed
    )


def test_the_demo_knows_its_own_encoder_by_its_tensors():
    """Its bytes may differ: safetensors writes its metadata in no order."""
    known = load(SCENES_ENCODER.read_bytes())
    assert same_tensors(save(known, {"written": "again"}))
    assert not same_tensors(save({k: v + 1 for k, v in known.items()}))
    assert not same_tensors(save({"other": torch.zeros(2)}))
