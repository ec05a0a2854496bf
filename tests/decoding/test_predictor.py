"""Predictor: equal to the model, independent of the batch; invalid voxels are refused."""

import numpy as np
import pytest
import torch

from jobs.opening.checkpoints import open_data
from jobs.opening.encoders import data_shapes
from jobs.worker import worker
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.errors import DataError
from mindeye_dist.evaluation.retrieval import evaluate_retrieval
from mindeye_dist.models.build import build_model
from mindeye_dist.runs.checkpoints import Checkpoints, read_weights
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override
from mindeye_dist.training.losses import prior_errors


@pytest.fixture(scope="module")
def voxels():
    return np.random.default_rng(0).standard_normal((7, 24)).astype(np.float32)


@pytest.fixture
def run(tiny_config):
    config = override(tiny_config, {"training.epochs": 1})
    worker(config)
    return config


@pytest.fixture
def newest(run):
    return Checkpoints(run.run_dir, 1).newest()


def test_embeddings_are_the_models(run, newest, voxels):
    """Oracle: the model built by hand, its projector's output normalised in NumPy."""
    manifest = read_manifest(Store(run.data.url))
    model = build_model(run, data_shapes(manifest, run)).eval()
    model.load_state_dict(read_weights(newest))
    with torch.no_grad():
        projected = model.projector(model.backbone(torch.from_numpy(voxels))).flatten(1).numpy()
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(Predictor(newest).embed(voxels), expected, rtol=1e-5, atol=1e-6)


def test_nothing_depends_on_the_batch(newest, voxels):
    seeds = list(range(10, 17))
    whole, single = Predictor(newest), Predictor(newest, batch_size=2)
    np.testing.assert_allclose(whole.embed(voxels), single.embed(voxels), rtol=1e-5, atol=1e-6)
    together = whole.tokens(voxels, seeds)
    np.testing.assert_allclose(together, single.tokens(voxels, seeds), rtol=1e-4, atol=1e-5)
    alone = whole.tokens(voxels[3:4], seeds[3:4])
    np.testing.assert_allclose(together[3:4], alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together[:, 0], axis=-1), 1, rtol=1e-5)
    assert not np.allclose(together, whole.tokens(voxels, seeds[::-1]))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 23), np.float32), r"voxels: got shape \(2, 23\), expected \(brains, 24\)"),
        (np.full((1, 24), np.nan, np.float32), "voxels: 24 values are not finite"),
        (np.zeros((0, 24), np.float32), "voxels: got no brains"),
    ],
)
def test_invalid_voxels_are_refused(newest, bad, message):
    with pytest.raises(ValueError, match=message):
        Predictor(newest).embed(bad)


def test_seeds_go_with_brains(newest, voxels):
    with pytest.raises(ValueError, match="seeds: got 2, expected one for each of 7"):
        Predictor(newest).tokens(voxels, [1, 2])


def test_evaluation_on_targets_of_another_encoder_is_refused(newest, tmp_path, write_subject):
    write_subject(tmp_path / "other")
    path = tmp_path / "other" / "manifest.json"
    path.write_text(path.read_text().replace("0" * 64, "1" * 64))
    store = Store(str(tmp_path / "other"))
    predictor = Predictor(newest)
    data = open_data(predictor, store, read_manifest(store), "cpu")
    with pytest.raises(DataError, match="clip_tokens 'tiny-clip_tokens' are not by the encoder of"):
        evaluate_retrieval(predictor, data)


def test_prior_errors_are_means_over_a_sample():
    """Oracle: NumPy."""
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 4, 3, 5)).astype(np.float32)
    expected = ((a - b) ** 2).mean(axis=(1, 2))
    ours = prior_errors(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5)
