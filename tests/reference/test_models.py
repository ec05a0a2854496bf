"""Backbone, projector, prior and sampler against the published model's outputs."""

import zlib

import numpy as np
import torch

from mindeye_dist.ingest.mindeye1_names import our_name
from mindeye_dist.model_config import BackboneConfig, PriorConfig, ProjectorConfig
from mindeye_dist.models.backbone import Backbone
from mindeye_dist.models.diffusion import add_noise, cosine_schedule, sample_ddpm
from mindeye_dist.models.prior import Prior
from mindeye_dist.models.projector import Projector
from mindeye_dist.training.losses import prior_errors


def fill(name, shape):
    """Return the recipe's value of a parameter: seeded by its name, scaled by its fan-in."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    values = generator.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return torch.from_numpy(values / np.float32(np.sqrt(np.prod(shape[1:]))))
    return torch.from_numpy(0.1 * values + np.float32(name.endswith((".weight", ".g"))))


def load(modules, shapes, prefix=""):
    """Fill modules, by the part they are, with the recipe's parameters; every key must fit."""
    for part, module in modules.items():
        state = {}
        for name, shape in shapes.items():
            ours = our_name(prefix + name, "257x768")
            if ours is not None and ours.startswith(f"{part}."):
                state[ours.removeprefix(f"{part}.")] = fill(name.removeprefix("net."), shape)
        module.load_state_dict(state, strict=True)
        module.eval()


def build_prior(meta):
    prior = Prior(
        PriorConfig(
            depth=meta["depth"],
            heads=meta["heads"],
            head_dim=meta["dim_head"],
            timesteps=meta["timesteps"],
        ),
        meta["tokens"],
        meta["dim"],
    )
    load({"prior": prior}, meta["state_dict"])
    return prior


@torch.no_grad()
def test_backbone_and_projector(reference):
    vectors, meta = reference("backbone")
    backbone = Backbone(
        BackboneConfig(hidden=meta["h"], num_blocks=meta["n_blocks"]),
        meta["in_dim"],
        meta["num_tokens"],
        meta["clip_size"],
    )
    hidden = meta["state_dict"]["projector.2.weight"][0]
    projector = Projector(ProjectorConfig(hidden=hidden), meta["clip_size"])
    load({"backbone": backbone, "projector": projector}, meta["state_dict"], "voxel2clip.")
    tokens = backbone(vectors["voxels"])
    torch.testing.assert_close(tokens.flatten(1), vectors["backbone"], rtol=0, atol=1e-4)
    torch.testing.assert_close(projector(tokens), vectors["projector"], rtol=0, atol=1e-4)


def test_schedule(reference):
    vectors, meta = reference("prior")
    schedule = cosine_schedule(meta["timesteps"])
    previous = np.concatenate([[1.0], schedule.alphas_cumprod[:-1]])
    pairs = {
        "sched_betas": 1 - schedule.alphas_cumprod / previous,
        "sched_alphas_cumprod": schedule.alphas_cumprod,
        "sched_posterior_mean_coef1": schedule.posterior_mean_x_0,
        "sched_posterior_mean_coef2": schedule.posterior_mean_x_t,
        "sched_posterior_log_variance_clipped": schedule.posterior_log_variance,
    }
    for key, table in pairs.items():
        np.testing.assert_allclose(table, vectors[key].numpy(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_prior_forward_and_loss(reference):
    vectors, meta = reference("prior")
    prior = build_prior(meta)
    np.testing.assert_allclose(prior.scale, vectors["image_embed_scale"].numpy()[0], rtol=1e-6)
    x_0 = prior.scale * vectors["image_embed"]
    noisy = add_noise(prior.schedule, x_0, vectors["times"], vectors["noise"])
    torch.testing.assert_close(noisy, vectors["noisy"], rtol=0, atol=1e-4)
    pred = prior(noisy, vectors["times"], vectors["brain_embed"])
    torch.testing.assert_close(pred, vectors["pred"], rtol=0, atol=1e-4)
    loss = prior_errors(pred, x_0).mean()
    torch.testing.assert_close(loss.reshape(1), vectors["loss_no_dropout"], rtol=1e-5, atol=1e-5)
    everything = torch.ones(len(noisy), dtype=torch.bool)
    dropped = prior(noisy, vectors["times"], vectors["brain_embed"], everything, everything)
    torch.testing.assert_close(dropped, vectors["pred_null"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_sample(reference):
    vectors, meta = reference("prior")
    prior = build_prior(meta)
    shape = tuple(vectors["noise"].shape)
    generator = np.random.default_rng(meta["seed"])
    for _ in ("image_embed", "brain_embed", "noise"):
        generator.standard_normal(shape)
    generator.integers(0, meta["timesteps"], shape[0])
    sequence = generator.standard_normal((meta["timesteps"] + 1, *shape)).astype(np.float32)

    def noise(step):
        return torch.from_numpy(sequence[meta["timesteps"] - step])

    sample = sample_ddpm(
        prior.schedule, lambda x_t, timestep: prior(x_t, timestep, vectors["brain_embed"]), noise
    )
    (expected,) = (rows for key, rows in vectors.items() if key.startswith("sample_ddpm"))
    torch.testing.assert_close(sample / prior.scale, expected, rtol=0, atol=1e-3)
