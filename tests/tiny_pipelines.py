"""diffusers' true classes at tiny random size, saved as their pipelines are."""

import json

import torch

SIDE, DIM, WORDS = 16, 8, 6
"""Pictures are 16 x 16, latents 4 x 8 x 8; embeddings have 8 numbers and prompts 6 words."""
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def vae():
    from diffusers import AutoencoderKL

    network = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.3,
    ).eval()
    # Random weights say little; this makes pictures that fill their range.
    network.decoder.conv_out.weight.data.mul_(5)
    return network


def unet(**changes):
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=SIDE // 2,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=DIM,
        **changes,
    ).eval()
    return louder(network)


def louder(network):
    """Return a network whose cross attention is not drowned by the rest."""
    for name, parameter in network.named_parameters():
        if "attn2.to_out" in name or "attn2.to_v" in name:
            parameter.data.mul_(4)
    return network


def text_encoder(kind):
    from transformers import CLIPTextConfig

    config = CLIPTextConfig(
        vocab_size=3,
        hidden_size=DIM,
        intermediate_size=16,
        projection_dim=DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=WORDS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return kind(config).eval()


def save_versatile(folder):
    """Save what the project reads of `VersatileDiffusionPipeline`, and return the folder."""
    from diffusers import DDIMScheduler

    seeded(unet).save_pretrained(folder / "image_unet")
    seeded(vae).save_pretrained(folder / "vae")
    # A file of 2022 does not say how timesteps are spaced.
    scheduler = DDIMScheduler(**SCHEDULE, steps_offset=1, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    forget(folder / "scheduler/scheduler_config.json", "timestep_spacing")
    return folder


def forget(path, key):
    """Take a key out of a JSON file."""
    values = json.loads(path.read_text())
    del values[key]
    path.write_text(json.dumps(values))


def unclip_pipeline():
    """Return a `StableUnCLIPImg2ImgPipeline` with the published one's scheduler classes."""
    from diffusers import DDPMScheduler, PNDMScheduler, StableUnCLIPImg2ImgPipeline
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
    from transformers import (
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    normalizer = StableUnCLIPImageNormalizer(DIM)
    normalizer.mean.data.copy_(torch.linspace(-1, 1, DIM))
    normalizer.std.data.copy_(torch.linspace(0.5, 2, DIM))
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        image_size=8, patch_size=4, projection_dim=DIM,
    )  # fmt: skip
    labels = {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 2 * DIM,
    }
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=None,
        image_encoder=seeded(lambda: CLIPVisionModelWithProjection(vision)),
        image_normalizer=normalizer,
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=WORDS),
        text_encoder=seeded(lambda: text_encoder(CLIPTextModel)),
        unet=seeded(lambda: unet(**labels)),
        scheduler=PNDMScheduler(
            **SCHEDULE, skip_prk_steps=True, steps_offset=1, prediction_type="v_prediction"
        ),
        vae=seeded(vae),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
