"""The embedding job on Ray Data. Oracle: the same job in one process, without Ray, byte by byte."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs import embed
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.storage.store import Store
from tests.conftest import ray_environment

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.ray


def flags(folder, *more):
    set_ = ["--encoder", "pixels", "--side", "8", "--variants", "2"]
    return ["--data-url", str(folder), *set_, *more]


def on_ray(folder, *more):
    """Run the job as a user does; return its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "jobs/embed.py", *flags(folder, *more)],
        cwd=ROOT,
        env=ray_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stderr


def test_two_workers_make_what_one_process_makes(write_subject, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        write_subject(folder)
    embed.main(flags(alone, "--without-ray"))
    code, said = on_ray(together, "--workers", "2")
    assert code == 0, said
    assert "encoded 39 pictures" in said
    assert read_manifest(Store(str(alone))) == read_manifest(Store(str(together)))
    files = sorted(p.relative_to(alone) for p in alone.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(together) for p in together.rglob("*") if p.is_file())
    for file in files:
        assert (alone / file).read_bytes() == (together / file).read_bytes(), file


def test_a_bad_shard_is_named_through_ray(write_subject, tmp_path):
    write_subject(tmp_path)
    broken = tmp_path / "train" / "train_subj01_1.tar"
    broken.write_bytes(broken.read_bytes()[:3000])
    code, said = on_ray(tmp_path)
    assert code != 0
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert "train_subj01_1.tar: sample sample0000000" in lines[0]
