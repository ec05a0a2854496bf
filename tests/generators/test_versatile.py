"""Versatile Diffusion against diffusers' own pipelines of it, at tiny random size."""

from dataclasses import replace

import pytest
import torch

from mindeye_dist.generators.protocol import Generator, noise_like
from mindeye_dist.generators.versatile import PUBLISHED, VersatileDiffusion
from mindeye_dist.randomness import torch_generator
from tests import tiny_pipelines as tiny

# diffusers' UniPC makes NumPy arrays of tensors in a way that NumPy 2 will not have for ever.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SEEDS = [3, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_versatile(tmp_path_factory.mktemp("versatile"))


def tokens(count=2):
    return torch.randn(count, 257, tiny.DIM, generator=torch.Generator().manual_seed(1))


def pictures(count=2, side=tiny.SIDE):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def sampler(folder):
    """Return the sampler of the published run."""
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler.from_pretrained(
        folder / "scheduler", solver_order=2, solver_type="bh2", final_sigmas_type="sigma_min"
    )


def dual_guided(folder, text):
    """Return the dual-guided pipeline, its encoders replaced: given tokens against zeros."""
    from diffusers import AutoencoderKL, UNet2DConditionModel, VersatileDiffusionDualGuidedPipeline
    from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import (
        UNetFlatConditionModel,
    )
    from transformers import CLIPTextModelWithProjection

    image_unet = UNet2DConditionModel.from_pretrained(folder / "image_unet")
    text_unet = UNetFlatConditionModel(
        sample_size=tiny.SIDE // 2,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlockFlat", "DownBlockFlat"),
        up_block_types=("UpBlockFlat", "CrossAttnUpBlockFlat"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=tiny.DIM,
    )
    pipeline = VersatileDiffusionDualGuidedPipeline(
        tokenizer=None,
        image_feature_extractor=None,
        text_encoder=tiny.text_encoder(CLIPTextModelWithProjection),
        image_encoder=None,
        image_unet=image_unet,
        text_unet=text_unet,
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        scheduler=sampler(folder),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline._encode_text_prompt = lambda *_: text
    pipeline._encode_image_prompt = lambda *_: torch.cat([torch.zeros_like(tokens()), tokens()])
    return pipeline.to("cpu")


@pytest.mark.parametrize("words", ["zeros", "random"])
def test_it_is_the_dual_guided_pipeline_at_mixing_ratio_zero(folder, words, monkeypatch):
    """Oracle: that pipeline. Its text counts for nothing, also where it is not zeros."""
    from diffusers.models import DualTransformer2DModel

    # diffusers 0.42's UNet gives its transformers a mask, here None, which this one does not know.
    forward = DualTransformer2DModel.forward
    monkeypatch.setattr(
        DualTransformer2DModel,
        "forward",
        lambda *args, encoder_attention_mask, **kwargs: forward(*args, **kwargs),
    )
    text = torch.zeros(4, tiny.WORDS, tiny.DIM)
    if words == "random":
        text = torch.randn(4, tiny.WORDS, tiny.DIM, generator=torch.Generator().manual_seed(5))
    timesteps = []
    theirs = dual_guided(folder, text)(
        prompt=["", ""],
        image=["", ""],
        text_to_image_strength=0.0,
        num_inference_steps=20,
        guidance_scale=3.5,
        latents=noise_like((4, 8, 8), SEEDS, torch.device("cpu")),
        output_type="pt",
        callback=lambda _, timestep, __: timesteps.append(int(timestep)),
    ).images
    generator = VersatileDiffusion(folder)
    assert isinstance(generator, Generator)
    assert generator.token_shape == (257, tiny.DIM)
    assert generator.side == tiny.SIDE
    ours = generator(tokens(), SEEDS)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    # Scotti et al.'s 20 timesteps; and pictures that say something.
    assert timesteps == [999, 949, 899, 849, 799, 749, 699, 649, 599, 549, 500, 450, 400, 350, 300,
                         250, 200, 150, 100, 50]  # fmt: skip
    assert ours.std() > 0.05


def test_it_is_the_image_variation_pipeline(folder):
    """Oracle: that pipeline, whose image UNet is the whole network; nothing of it is patched."""
    from diffusers import (
        AutoencoderKL,
        UNet2DConditionModel,
        VersatileDiffusionImageVariationPipeline,
    )

    pipeline = VersatileDiffusionImageVariationPipeline(
        image_feature_extractor=None,
        image_encoder=None,
        image_unet=UNet2DConditionModel.from_pretrained(folder / "image_unet"),
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        scheduler=sampler(folder),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline._encode_prompt = lambda *_: torch.cat([torch.zeros_like(tokens()), tokens()])
    theirs = pipeline(
        image=torch.zeros(2, 3, tiny.SIDE, tiny.SIDE),
        num_inference_steps=20,
        guidance_scale=3.5,
        latents=noise_like((4, 8, 8), SEEDS, torch.device("cpu")),
        output_type="pt",
    ).images
    ours = VersatileDiffusion(folder)(tokens(), SEEDS)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_img2img_is_diffusers_own(folder):
    """Oracle: diffusers' img2img pipeline, from latents of the published quirks, step by step."""
    from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    vae = AutoencoderKL.from_pretrained(folder / "vae")
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=UNet2DConditionModel.from_pretrained(folder / "image_unet"),
        scheduler=sampler(folder),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    with torch.no_grad():
        posterior = vae.encode((pictures() - mean) / deviation).latent_dist
    noise = noise_like((4, 8, 8), SEEDS, torch.device("cpu"), "posterior")
    timesteps = []
    theirs = pipeline(
        image=(posterior.mean + (posterior.logvar / 2).exp() * noise) * 0.3,
        strength=0.85,
        num_inference_steps=20,
        guidance_scale=3.5,
        prompt_embeds=tokens(),
        negative_prompt_embeds=torch.zeros_like(tokens()),
        generator=[torch_generator(torch.device("cpu"), seed, "generator") for seed in SEEDS],
        output_type="pt",
        callback_on_step_end=lambda _, __, timestep, ___: timesteps.append(int(timestep)) or {},
    ).images
    ours = VersatileDiffusion(folder)(tokens(), SEEDS, pictures(), 0.85)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (len(timesteps), timesteps[0]) == (17, 849)


@pytest.mark.parametrize(
    "change",
    [
        {"init_normalisation": "unit"},
        {"posterior": "mode"},
        {"last_sigma": "zero"},
        {"guidance": 5.0},
        {"steps": 10},
    ],
    ids=str,
)
def test_every_option_changes_pictures_and_digest(folder, change):
    published = VersatileDiffusion(folder)
    other = VersatileDiffusion(folder, replace(PUBLISHED, **change))
    assert other.digest != published.digest
    drawn, changed = (g(tokens(), SEEDS, pictures(), 0.5) for g in (published, other))
    assert (drawn - changed).abs().max() > 1e-3


def test_the_dual_guided_unet_is_refused(folder, tmp_path):
    tiny.save_versatile(tmp_path)
    dual_guided(folder, torch.zeros(0)).image_unet.save_pretrained(tmp_path / "image_unet")
    with pytest.raises(ValueError, match=r"image_unet: got the UNet of Versatile.*DualGuided"):
        VersatileDiffusion(tmp_path)


def test_a_folder_of_another_pipeline_is_refused(tmp_path):
    tiny.unclip_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"image_unet: no such folder.*UNet2DConditionModel"):
        VersatileDiffusion(tmp_path)
