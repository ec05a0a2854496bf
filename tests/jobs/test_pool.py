"""The pool job: pools from shards and from files, what is found, and what is held back."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import pool as job
from jobs.opening.checkpoints import best_checkpoint
from jobs.work import pool as work
from jobs.worker import worker
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.decoding.pools.faiss_pool import Pool
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.pictures import encode_jpeg
from mindeye_dist.simulation.scenes import render_scene
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override
from tests.jobs.test_embed import Colours

SHORT = {"training.epochs": 2, "training.validate_every_epochs": 1}


class Tiny(Colours):
    """Colours, under the digest of the tiny subject's own clip_tokens."""

    def target_encoder(self, *_):
        """Stand in for `jobs.opening.encoders.target_encoder`."""
        encoder = super().target_encoder()
        return type(encoder)(**{**vars(encoder), "digest": "0" * 64})


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Encode with a small encoder in place of a frozen model."""
    encoder = Tiny()
    monkeypatch.setattr(work, "target_encoder", encoder.target_encoder)
    return encoder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Return a folder of rendered scenes, one of them wide."""
    folder = tmp_path_factory.mktemp("scenes")
    for i in range(12):
        rgb = render_scene(i, 0, 48).picture
        (folder / f"{i:02d}.jpg").write_bytes(encode_jpeg(rgb[:32] if i == 3 else rgb))
    return folder


@pytest.fixture
def run(tiny_config):
    """Return the folder of a finished run on the tiny subject."""
    config = override(tiny_config, SHORT)
    worker(config)
    return Path(config.run_dir)


def build(*arguments):
    job.main(["build", *(str(argument) for argument in arguments)])


def search(*arguments):
    job.main(["search", *(str(argument) for argument in arguments)])


def fails(call, *arguments):
    with pytest.raises(SystemExit) as stopped:
        call(*arguments)
    assert str(stopped.value).startswith("error: ")
    return str(stopped.value)


def found(folder):
    return [json.loads(line) for line in (folder / "matches.jsonl").read_text().splitlines()]


def test_from_files_to_matches(scenes, run, tiny_shards, tmp_path, capsys):
    """Oracle: cosines of the predictor's embeddings with the pool's tokens, by numpy."""
    build("--images", scenes, "--out", tmp_path / "pool", "--max-side", 40)
    options = ["--pool", tmp_path / "pool", "--run-dir", run, "--out", tmp_path / "out"]
    search(*options, "--k", 3, "--num-examples", 4)
    assert "pool: 12 pictures, 0 of them of the test split" in capsys.readouterr().out
    predictor = Predictor(best_checkpoint(str(run)))
    store = Store(str(tiny_shards))
    test = Dataset(store, read_manifest(store), predictor.config.data, "test")
    tokens = np.load(tmp_path / "pool/tokens.npy").reshape(12, -1).astype(float)
    cosines = (
        predictor.embed(test.averages())
        @ (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).T
    )
    expected = np.argsort(-cosines, axis=1)[:, :3]
    rows = found(tmp_path / "out")
    assert [row["key"] for row in rows] == [sample.key for sample in test.samples]
    for row, best, own in zip(rows, expected.tolist(), cosines, strict=True):
        assert [match["number"] for match in row["matches"]] == best
        assert [match["source"] for match in row["matches"]] == [f"{n:02d}.jpg" for n in best]
        assert [match["cosine"] for match in row["matches"]] == pytest.approx(own[best], abs=1e-5)
    with Image.open(tmp_path / "out/sheet.png") as page:
        assert page.size == ((work.CELL + work.GAP) * 4, (work.CELL + work.CAPTION + work.GAP) * 4)


def test_pictures_that_were_seen_are_held_back(run, tiny_shards, tmp_path, capsys):
    """A pool of the test split itself: all are excluded, or all there by request."""
    pool = tmp_path / "pool"
    build("--data-url", tiny_shards, "--split", "test", "--out", pool)
    options = ["--pool", pool, "--run-dir", run, "--out", tmp_path / "out"]
    assert "expected 1 to the 0 pictures" in fails(search, *options)
    assert "pool: 9 pictures, 9 of them of the test split: excluded" in capsys.readouterr().out
    search(*options, "--include-seen", "--k", 9)
    assert "9 of them of the test split: included, by --include-seen" in capsys.readouterr().out
    for row in found(tmp_path / "out"):
        assert row["key"] in [match["source"] for match in row["matches"]]


def test_one_leaked_picture(scenes, run, tiny_shards, tmp_path, capsys):
    """Among other pictures, the one that was seen is never an answer."""
    store = Store(str(tiny_shards))
    data = Predictor(best_checkpoint(str(run))).config.data
    leaked = Dataset(store, read_manifest(store), data, "test").pictures([4])[0]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in scenes.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "aa-leaked.jpg").write_bytes(leaked)
    build("--images", folder, "--out", tmp_path / "pool")
    search("--pool", tmp_path / "pool", "--run-dir", run, "--out", tmp_path / "out", "--k", 12)
    assert "13 pictures, 1 of them of the test split" in capsys.readouterr().out
    sources = {match["source"] for row in found(tmp_path / "out") for match in row["matches"]}
    assert sources == {f"{i:02d}.jpg" for i in range(12)}


def test_pictures_are_stored_as_wide_as_those_of_the_shards(scenes, tiny_shards, run, tmp_path):
    """Oracle: the width of the shards' pictures."""
    build("--images", scenes, "--data-url", tiny_shards, "--out", tmp_path / "pool")
    targets = Predictor(best_checkpoint(str(run))).shapes.targets["clip_tokens"]
    stored = Pool(tmp_path / "pool", targets).pictures([0, 3])
    assert [Image.open(io.BytesIO(data)).size for data in stored] == [(16, 16), (16, 16)]


def test_a_pool_is_replaced_only_on_request(scenes, tmp_path, tiny):
    build("--images", scenes, "--out", tmp_path / "pool")
    assert "is a pool already; --overwrite" in fails(
        build, "--images", scenes, "--out", tmp_path / "pool"
    )
    assert tiny.count == 12
    build("--images", scenes, "--out", tmp_path / "pool", "--overwrite")
    assert tiny.count == 24


def test_what_cannot_be_built(scenes, tiny_shards, tmp_path, capsys):
    out = ["--out", tmp_path / "pool"]
    with pytest.raises(SystemExit):
        build(*out)
    assert "images: got '', expected a folder or tar" in capsys.readouterr().err
    assert "expected a folder on this machine" in fails(
        build, "--images", scenes, "--out", "s3://lab/pool"
    )
    lite = ["--encoder", "efficientnet-lite0"]
    assert "projection is in its shards" in fails(build, *out, *lite, "--images", scenes)
    assert "neither a folder nor a tar" in fails(build, *out, "--images", tmp_path / "none")
    assert "'subj09' is not in the manifest" in fails(
        build, *out, "--data-url", tiny_shards, "--subject", "subj09"
    )


def test_what_makes_no_clip_tokens(scenes, tmp_path, tiny, monkeypatch):
    encoder = tiny.target_encoder()
    other = type(encoder)(**{**vars(encoder), "kind": "feature_map"})
    monkeypatch.setattr(work, "target_encoder", lambda *_: other)
    said = fails(build, "--images", scenes, "--out", tmp_path / "pool")
    assert "makes feature_map, a pool has clip_tokens" in said


def test_what_cannot_be_searched(scenes, run, tmp_path, tiny, monkeypatch, tiny_config):
    monkeypatch.setattr(work, "target_encoder", lambda *_: Colours.target_encoder(tiny))
    build("--images", scenes, "--out", tmp_path / "pool")
    out = ["--out", tmp_path / "out"]
    assert "build a pool with that encoder" in fails(
        search, *out, "--pool", tmp_path / "pool", "--run-dir", run
    )
    assert "has no pool.json" in fails(search, *out, "--pool", tmp_path, "--run-dir", run)
    assert "has no good checkpoint" in fails(
        search, *out, "--pool", tmp_path / "pool", "--run-dir", tmp_path
    )
    lowlevel = override(
        tiny_config, {**SHORT, "pipeline": "lowlevel", "run_dir": str(tmp_path / "low")}
    )
    worker(lowlevel)
    assert "is of the lowlevel pipeline" in fails(
        search, *out, "--pool", tmp_path / "pool", "--run-dir", tmp_path / "low"
    )
