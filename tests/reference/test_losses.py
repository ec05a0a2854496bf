"""Losses, their gradients and the temperature table against the published model's."""

import torch

from mindeye_dist import metrics
from mindeye_dist.training import losses

TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}


def temperatures(vectors, prefix):
    return [(key, float(key.removeprefix(prefix))) for key in vectors if key.startswith(prefix)]


def published_labels(mix_partner, mix_coef):
    """Return the published labels: a sample that is its own partner loses its weight."""
    rows = torch.arange(len(mix_coef))
    return torch.diag(mix_coef).index_put((rows, mix_partner), 1 - mix_coef)


def test_bimixco_and_its_gradient(reference, monkeypatch):
    monkeypatch.setattr(losses, "mixing_labels", published_labels)
    vectors, _ = reference("losses")
    mix_coef = torch.where(vectors["select"], vectors["betas"], torch.ones_like(vectors["betas"]))
    for key, temperature in temperatures(vectors, "bimixco_t"):
        preds = vectors["preds"].clone().requires_grad_()
        loss = losses.bimixco(preds, vectors["targs"], vectors["perm"], mix_coef, temperature)
        torch.testing.assert_close(loss.reshape(1), vectors[key], **TOLERANCE)
        # The vectors differentiate with respect to already normalised rows; ours normalises inside.
        loss.backward()
        expected = tangent(vectors[f"grad_{key}"], vectors["preds"])
        torch.testing.assert_close(preds.grad, expected, rtol=1e-4, atol=1e-6)


def test_soft_clip_and_its_gradient(reference):
    vectors, _ = reference("losses")
    for key, temperature in temperatures(vectors, "softclip_t"):
        preds = vectors["preds"].clone().requires_grad_()
        loss = losses.soft_clip(preds, vectors["targs"], temperature)
        torch.testing.assert_close(loss.reshape(1), vectors[key], **TOLERANCE)
        if f"grad_{key}" in vectors:
            loss.backward()
            expected = tangent(vectors[f"grad_{key}"], vectors["preds"])
            torch.testing.assert_close(preds.grad, expected, rtol=1e-4, atol=1e-6)


def tangent(gradient, rows):
    """Return the part of each row's gradient that is orthogonal to the (unit) row."""
    return gradient - (gradient * rows).sum(-1, keepdim=True) * rows


def test_unmixed_bimixco_is_the_published_nce(reference):
    vectors, _ = reference("losses")
    count = len(vectors["preds"])
    for key, temperature in temperatures(vectors, "nce_t"):
        loss = losses.bimixco(
            vectors["preds"], vectors["targs"], torch.arange(count), torch.ones(count), temperature
        )
        torch.testing.assert_close(loss.reshape(1), vectors[key], **TOLERANCE)


def test_soft_contrastive(reference):
    vectors, _ = reference("losses")
    for key, temperature in temperatures(vectors, "soft_cont_t"):
        loss = losses.soft_contrastive(
            vectors["preds"], vectors["targs"], vectors["teacher_aug"], temperature
        )
        torch.testing.assert_close(loss.reshape(1), vectors[key], **TOLERANCE)


def test_one_way_mixco(reference):
    vectors, _ = reference("losses")
    mix_coef = torch.where(vectors["select"], vectors["betas"], torch.ones_like(vectors["betas"]))
    similarity = losses.cosine_similarity(vectors["preds"], vectors["targs"])
    labels = published_labels(vectors["perm"], mix_coef)
    for key, temperature in temperatures(vectors, "mixco_oneway_t"):
        loss = losses.cross_entropy(similarity / temperature, labels)
        torch.testing.assert_close(loss.reshape(1), vectors[key], **TOLERANCE)


def test_temperature_table(reference):
    vectors, _ = reference("losses")
    for key, table in vectors.items():
        if key.startswith("soft_temps_"):
            start, end, count = key.removeprefix("soft_temps_").split("_")
            ours = [
                losses.soft_temperature(float(start), float(end), index, int(count))
                for index in range(int(count))
            ]
            torch.testing.assert_close(torch.tensor(ours), table, **TOLERANCE)


def test_mixed_voxels(reference):
    vectors, _ = reference("losses")
    mix_coef = torch.where(vectors["select"], vectors["betas"], torch.ones_like(vectors["betas"]))
    before = vectors["voxels"].clone()
    mixed = losses.mix(vectors["voxels"], vectors["perm"], mix_coef)
    torch.testing.assert_close(mixed, vectors["voxels_mixed"], **TOLERANCE)
    assert torch.equal(vectors["voxels"], before)


def test_top1(reference):
    vectors, _ = reference("losses")
    similarity = losses.cosine_similarity(vectors["preds"], vectors["targs"])
    accuracy = metrics.top_k(metrics.ranks(similarity.numpy(), "brain_to_image"), 1)
    torch.testing.assert_close(torch.tensor([accuracy]), vectors["top1"], **TOLERANCE)
