"""The low-level pipeline from checkpoint to report: latents, pictures, controls, and their page."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs.opening.checkpoints import open_data
from jobs.worker import worker
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.errors import DataError
from mindeye_dist.evaluation.lowlevel import evaluate_lowlevel, evaluate_lowlevel_alone
from mindeye_dist.evaluation.picture_scores import PictureJudge
from mindeye_dist.evaluation.retrieval import evaluate_retrieval
from mindeye_dist.pictures import decode, encode_png
from mindeye_dist.reports.page import write_report
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override


class TinyCodec:
    """Stands in for a VAE: three of the tiny subject's four channels are colours."""

    name, digest, side, shape = "tiny", "0" * 64, 16, (4, 4, 4)

    def encode(self, images):
        """Never needed: the latents are stored."""
        raise NotImplementedError

    def decode(self, latents):
        """Return each cell's colour."""
        return latents[:, :3].sigmoid().repeat_interleave(4, -1).repeat_interleave(4, -2)


@pytest.fixture
def run(tiny_config):
    config = override(tiny_config, {"pipeline": "lowlevel", "training.epochs": 1})
    worker(config)
    return config


@pytest.fixture
def predictor(run):
    return Predictor(Checkpoints(run.run_dir, 1).newest(), batch_size=2)


def test_latents_are_the_models_whatever_the_batch(predictor):
    """Oracle: the model's own forward on all brains at once."""
    voxels = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    with torch.no_grad():
        expected = predictor.model(torch.from_numpy(voxels)).latents.numpy()
    np.testing.assert_allclose(predictor.latents(voxels), expected, rtol=1e-4, atol=1e-5)


def test_methods_of_the_other_pipeline_are_refused(predictor, tiny_config):
    voxels = np.zeros((1, 24), np.float32)
    with pytest.raises(ValueError, match="embed: .* is a checkpoint of the lowlevel pipeline"):
        predictor.embed(voxels)
    with pytest.raises(ValueError, match="tokens: .* is a checkpoint of the lowlevel pipeline"):
        predictor.tokens(voxels, [0])
    high = override(tiny_config, {"training.epochs": 1, "run_dir": f"{tiny_config.run_dir}-high"})
    worker(high)
    with pytest.raises(ValueError, match="latents: .* is a checkpoint of the highlevel pipeline"):
        Predictor(Checkpoints(high.run_dir, 1).newest()).latents(voxels)


def data_of(predictor, url):
    """Return a checkpoint's data in a folder of shards."""
    store = Store(str(url))
    return open_data(predictor, store, read_manifest(store), "cpu")


@pytest.fixture
def data(run, predictor, monkeypatch):
    """Return the run's data, with seen pictures of many colours."""
    own = data_of(predictor, run.data.url)
    noise = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    monkeypatch.setattr(
        own.splits["test"], "pictures", lambda numbers: [encode_png(noise[n]) for n in numbers]
    )
    return own


def test_perfect_latents_are_perfect_and_shuffled_ones_are_not(data, predictor, monkeypatch):
    """A predictor of the true latents scores exactly what the codec allows."""
    truth = data.splits["test"].all_targets("latents")
    monkeypatch.setattr(predictor, "latents", lambda voxels: truth)
    report = evaluate_lowlevel(predictor, TinyCodec(), data).report
    assert report["model"] == report["perfect_latents"]
    assert report["pool"] == 9
    assert {"ridge", "shuffled", "mean_picture"} <= report.keys()
    assert report["model"]["pixcorr"] != report["shuffled"]["pixcorr"]
    low, high = report["model"]["ssim"]["ci"]
    assert low <= report["model"]["ssim"]["mean"] <= high


def test_lowlevel_pictures_are_scored_as_published(data, predictor, tmp_path):
    """Oracle: the codec by hand, behind the judge of reconstructions; flat pictures are counted."""

    class Flat(TinyCodec):
        """Decodes the first three brains' latents to grey."""

        def decode(self, latents):
            pictures = super().decode(latents)
            pictures[:3] = 0.5
            return pictures

    test = data.splits["test"]
    found = evaluate_lowlevel(predictor, Flat(), data)
    seen = np.stack([decode(file, "") for file in test.pictures(range(9))])
    judge = PictureJudge(seen.transpose(0, 3, 1, 2).astype(np.float32) / 255, [])
    made = Flat().decode(torch.from_numpy(predictor.latents(test.averages()))).numpy()
    expected = judge.scores(made, 0)
    for key in ("pixcorr", "ssim"):
        assert found.report["model"][key] == {
            part: expected[key][part] for part in ("mean", "ci", "undefined")
        }
    undefined = {n: found.report[n]["pixcorr"]["undefined"] for n in ("model", "mean_picture")}
    assert undefined == {"model": 3, "mean_picture": 9}  # decoded alone, the mean is the first
    evaluation = evaluate_lowlevel_alone(predictor, Flat(), data)
    page = write_report(tmp_path, evaluation, [], {}).read_text()
    assert "This model 3, Ridge regression 3, Perfect latents 3, Mean picture" in page


def test_latents_of_another_codec_are_refused(run, predictor, tmp_path, write_subject):
    other = TinyCodec()
    other.digest = "1" * 64
    with pytest.raises(
        DataError, match="latents 'tiny-latents' are by tiny 000.*given is tiny 111"
    ):
        evaluate_lowlevel(predictor, other, data_of(predictor, run.data.url))
    write_subject(tmp_path / "other")
    path = tmp_path / "other" / "manifest.json"
    path.write_text(path.read_text().replace("0" * 64, "1" * 64))
    with pytest.raises(DataError, match="latents 'tiny-latents' are not by the encoder of"):
        evaluate_lowlevel(predictor, other, data_of(predictor, tmp_path / "other"))


def test_another_brain_is_refused(predictor, tmp_path, write_subject):
    write_subject(tmp_path / "other", num_voxels=25)
    with pytest.raises(DataError, match="subj01: has 25 voxels, .* was trained on 24"):
        evaluate_lowlevel(predictor, TinyCodec(), data_of(predictor, tmp_path / "other"))


def test_the_page_shows_the_pictures(run, predictor, tiny_config, tmp_path):
    high = override(tiny_config, {"training.epochs": 1, "run_dir": f"{tiny_config.run_dir}-high"})
    worker(high)
    own = Predictor(Checkpoints(high.run_dir, 1).newest())
    data = data_of(predictor, run.data.url)
    both = replace(
        evaluate_retrieval(own, data_of(own, run.data.url)),
        lowlevel=evaluate_lowlevel(predictor, TinyCodec(), data, num_examples=4),
    )
    page = write_report(tmp_path, both, [], {}).read_text()
    assert page.count("predicted from the brain, ") == 4
    score = both.lowlevel.report["model"]["pixcorr"]["mean"]
    assert f"<strong>{score:.3f}</strong> (PixCorr)" in page
    assert "Mean picture for every brain" in page
