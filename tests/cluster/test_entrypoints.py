"""Entrypoints of the RayJobs: commands of the docs, valid for the jobs' own command lines."""

import os
import re
import shlex
import subprocess

import pytest
import torch
import tyro

import mindeye_dist.runs.checkpoints
from jobs import train, tune
from jobs.options.reconstruct import Reconstruct
from jobs.recipes import recipe, recipe_flag
from jobs.sweeps.options import SWEEP
from mindeye_dist.runs.checkpoint_writing import write_rank_shard
from mindeye_dist.runs.checkpoints import Checkpoints, Progress
from tests.cluster.manifests import ROOT, cluster_spec, documents, named

JOBS = ("train", "tune", "reconstruct")
PLACEHOLDER = re.compile(r"[A-Z]+(_[A-Z]+)+")


def entrypoint(job):
    return named(f"RayJob/mindeye-{job}")["spec"]["entrypoint"]


def run(job, home):
    """Return Python's arguments, as the submitter's shell makes them with `home` as the volume."""
    bin_folder = home / "bin"
    bin_folder.mkdir(exist_ok=True)
    (bin_folder / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (bin_folder / "python").chmod(0o755)
    environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "MINDEYE_HOME": str(home)}
    said = subprocess.run(
        ["bash", "-ce", entrypoint(job)], env=environment, capture_output=True, check=True
    )
    return said.stdout.decode().split()


def options(job, arguments):
    """Parse arguments by the job's own command line, as its main does."""
    if job == "reconstruct":
        return tyro.cli(Reconstruct, args=arguments)
    kind = {"train": train.Train, "tune": tune.Tune}[job]
    name = recipe_flag(arguments, kind.recipe)
    return tyro.cli(kind, default=kind(recipe=name, config=recipe(name)), args=arguments)


def commands(text):
    """Return the `python jobs/` commands in a page's code blocks."""
    blocks = "\n".join(re.findall(r"```\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if line.startswith("python jobs/")]
    return [shlex.split(line, comments=True) for line in lines]


def begins_with(words, command):
    """Return whether words begin with a command, whose placeholders (A_NAME) match any word."""
    pairs = zip(words, command, strict=False)
    same = all(word == other or PLACEHOLDER.fullmatch(other) for word, other in pairs)
    return len(words) >= len(command) > 2 and same


def test_these_are_all_jobs():
    """Oracle: the objects."""
    names = [d["metadata"]["name"] for d in documents() if d["kind"] == "RayJob"]
    assert sorted(names) == sorted(f"mindeye-{job}" for job in JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_each_begins_with_a_command_of_the_docs(job, tmp_path):
    """Oracle: the pages of docs/; and no flag is repeated."""
    words = ["python", *run(job, tmp_path)]
    pages = [path.read_text() for path in (ROOT / "docs").glob("*.md")]
    assert any(begins_with(words, command) for page in pages for command in commands(page))
    flags = [word for word in words if word.startswith("--")]
    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize("job", JOBS)
def test_the_job_takes_its_flags(job, tmp_path, capsys):
    """Oracle: the job's own command line, which refuses a planted mistake."""
    script, *arguments = run(job, tmp_path)
    assert (ROOT / script).is_file()
    options(job, arguments)
    with pytest.raises(SystemExit):
        options(job, [*arguments, "--compute.num-wokers", "2"])
    assert "num-wokers" in capsys.readouterr().err


def test_training_resumes_from_its_checkpoint_and_deletes_none(tmp_path, monkeypatch):
    """Oracle: the submitter's shell, while mindeye_dist.runs.checkpoints writes."""
    checkpoints = Checkpoints(str(tmp_path / recipe("mindeye1-subj01").run_dir), 1)

    def asked():
        found = options("train", run("train", tmp_path)[1:])
        assert tmp_path / found.config.run_dir == checkpoints.folder.parent
        return found.resume, found.overwrite

    def save(step, killed_here):
        def write(folder, share):
            assert asked() == killed_here
            write_rank_shard(folder, share)

        monkeypatch.setattr(mindeye_dist.runs.checkpoints, "write_rank_shard", write)
        state = {key: torch.ones(2) for key in ("weight", "exp_avg", "exp_avg_sq")}
        checkpoints.save(Progress(step=step), iter([("weight", state)]), {"config.json": {}})

    assert asked() == (False, False)  # the first time, or without the volume
    save(1, killed_here=(False, True))
    assert asked() == (True, False)
    save(2, killed_here=(True, False))
    assert asked() == (True, False)


def test_a_begun_sweep_resumes(tmp_path):
    """Oracle: the submitter's shell, on a folder like that of jobs/tune.py."""
    first = options("tune", run("tune", tmp_path)[1:])
    assert not first.resume
    (tmp_path / first.config.run_dir).mkdir(parents=True)
    (tmp_path / first.config.run_dir / SWEEP).write_text("{}")
    assert options("tune", run("tune", tmp_path)[1:]).resume


def test_reconstruction_uses_the_trained_run(tmp_path):
    """Oracle: the run folder of the training job."""
    trained = options("train", run("train", tmp_path)[1:]).config.run_dir
    assert options("reconstruct", run("reconstruct", tmp_path)[1:]).run_dir == trained


@pytest.mark.parametrize("job", JOBS)
def test_the_workers_fit_into_the_largest_cluster(job, tmp_path):
    """Oracle: the resources of Ray's workers, and the pods' limits."""
    (group,) = cluster_spec(named(f"RayJob/mindeye-{job}"))["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    got = options(job, run(job, tmp_path)[1:])
    if job == "reconstruct":
        workers, cpus = got.workers, 1
    else:
        compute = got.config.compute
        workers = compute.num_workers * (got.concurrent if job == "tune" else 1)
        cpus = compute.cpus_per_worker
    assert workers == group["maxReplicas"] * int(limits["nvidia.com/gpu"])
    assert cpus < int(limits["cpu"])  # one is left for other processes
