"""Objectives see the global batch: losses and gradients do not depend on the workers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mindeye_dist.batch import Batch
from mindeye_dist.config import ExperimentConfig, LossConfig
from mindeye_dist.models.lowlevel import LowLevelOutputs
from mindeye_dist.training.draws import Mixing
from mindeye_dist.training.losses import latent_errors, soft_contrastive
from mindeye_dist.training.objective import HighLevelObjective, LowLevelObjective, prior_tokens
from tests.forked import run_ranks
from tests.gathers import take_step


def batch_of(**targets):
    count = len(next(iter(targets.values())))
    return Batch(
        voxels=torch.arange(4.0 * count).reshape(count, 4),
        targets=targets,
        keys=tuple(str(n) for n in range(count)),
        step=0,
        start=0,
        global_size=count,
    )


@pytest.mark.processes
def test_bimixco_over_workers_is_that_of_one_process(tmp_path):
    """13 samples over 1, 2 and 4 workers, parts uneven, mixing partners on other ranks."""
    results = {}
    take_step(str(tmp_path / "0"))
    results[0] = load_file(tmp_path / "0")
    for count in (1, 2, 4):
        run_ranks(take_step, str(tmp_path / f"{count}"), count=count, folder=tmp_path)
        results[count] = load_file(tmp_path / f"{count}")
    for count in (1, 2, 4):
        for name, expected in results[0].items():
            torch.testing.assert_close(results[count][name], expected, rtol=1e-6, atol=1e-6)
    assert results[0]["gradient"].abs().max() > 1e-2


def test_the_priors_target_is_mixed_like_its_condition():
    """Oracle: a NumPy loop over the definition, token 0 brought back to norm 1."""
    generator = np.random.default_rng(0)
    tokens = generator.standard_normal((3, 2, 5)).astype(np.float32)
    tokens /= np.linalg.norm(tokens[:, :1], axis=-1, keepdims=True)
    partner, coef = [1, 2, 0], np.array([0.25, 1.0, 0.9], np.float32)
    mixing = Mixing(mix_partner=torch.tensor(partner), mix_coef=torch.from_numpy(coef))
    batch = batch_of(clip_tokens=torch.from_numpy(tokens))
    mixed = HighLevelObjective(ExperimentConfig(), 1.0).mix(batch, mixing)
    for i in range(3):
        expected = coef[i] * tokens[i] + (1 - coef[i]) * tokens[partner[i]]
        expected /= np.linalg.norm(expected[0])
        np.testing.assert_allclose(prior_tokens(mixed)[i].numpy(), expected, rtol=1e-5)
        voxels = coef[i] * batch.voxels[i] + (1 - coef[i]) * batch.voxels[partner[i]]
        torch.testing.assert_close(mixed.voxels[i], voxels)
    assert torch.equal(mixed.targets["clip_tokens"], batch.targets["clip_tokens"])
    released = replace(ExperimentConfig(), loss=LossConfig(mix_prior_target=False))
    left = HighLevelObjective(released, 1.0).mix(batch, mixing)
    assert torch.equal(prior_tokens(left), batch.targets["clip_tokens"])


def test_low_level_total():
    """Oracle: the weighted sum by hand, the map's tokens of all pictures joined."""
    latents, maps = torch.randn(3, 2, 4, 4), torch.randn(3, 4, 6)
    teacher, augmented = torch.randn(2, 3, 4, 6)
    batch = batch_of(latents=latents + 0.5, feature_map=teacher, feature_map_augmented=augmented)
    objective = LowLevelObjective(ExperimentConfig())
    outputs = LowLevelOutputs(latents=latents, feature_map=maps)
    losses = objective(outputs, batch, 0, Mixing(torch.arange(3), torch.ones(3)))
    rows = [x.reshape(12, 6) for x in (maps, teacher, augmented)]
    expected = 0.5 / 0.18215 + 0.1 * soft_contrastive(*rows, 0.075)
    torch.testing.assert_close(losses["total"], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses["latents"], torch.tensor(0.5), rtol=1e-5, atol=1e-6)


def test_latent_correlation():
    """Oracle: np.corrcoef picture by picture."""
    generator = np.random.default_rng(0)
    preds, truths = generator.standard_normal((2, 5, 30))
    scores = LowLevelObjective(ExperimentConfig()).scores(
        torch.from_numpy(preds).float(), torch.from_numpy(truths).float()
    )
    expected = np.mean([np.corrcoef(p, t)[0, 1] for p, t in zip(preds, truths, strict=True)])
    assert scores["latent_correlation"] == pytest.approx(expected, rel=1e-5)


def test_latent_errors_are_means_over_a_sample():
    """Oracle: NumPy."""
    a, b = np.random.default_rng(0).standard_normal((2, 3, 2, 4, 4)).astype(np.float32)
    ours = latent_errors(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(ours.numpy(), np.abs(a - b).mean(axis=(1, 2, 3)), rtol=1e-5)
