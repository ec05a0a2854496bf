"""Stable unCLIP against diffusers' own pipeline of it, at tiny random size."""

import pytest
import torch

from mindeye_dist.generators.protocol import Generator, noise_like
from mindeye_dist.generators.unclip import StableUnCLIP
from mindeye_dist.randomness import torch_generator
from tests import tiny_pipelines as tiny

# diffusers' UniPC makes NumPy arrays of tensors in a way that NumPy 2 will not have for ever.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SEEDS = [3, 4]


@pytest.fixture(scope="module")
def pipeline():
    return tiny.unclip_pipeline()


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    return tmp_path


def tokens(count=2):
    return torch.randn(count, 1, tiny.DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("level", [0, 400])
def test_it_is_diffusers_own_pipeline(pipeline, folder, level):
    """Oracle: that pipeline with its defaults and UniPC, given the same noise twice over."""
    from diffusers import PNDMScheduler, StableUnCLIPImg2ImgPipeline, UniPCMultistepScheduler

    published = PNDMScheduler.from_pretrained(folder / "scheduler")
    theirs = StableUnCLIPImg2ImgPipeline(
        **{
            **pipeline.components,
            "scheduler": UniPCMultistepScheduler.from_config(published.config),
        }
    )
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        prompt=["", ""],
        image_embeds=tokens()[:, 0],
        noise_level=level,
        # The pipeline draws the embedding's noise only, since the latents are given.
        generator=[torch_generator(torch.device("cpu"), seed, "embedding") for seed in SEEDS],
        latents=noise_like((4, 8, 8), SEEDS, torch.device("cpu")),
        output_type="pt",
    ).images
    generator = StableUnCLIP(folder, noise_level=level)
    assert isinstance(generator, Generator)
    assert generator.token_shape == (1, tiny.DIM)
    assert generator.side == tiny.SIDE
    ours = generator(tokens(), SEEDS)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    assert ours.std() > 0.05


def test_the_pipeline_is_maintained():
    """Diffusers marks what it no longer maintains, and puts it in a folder of its own."""
    from diffusers import StableUnCLIPImg2ImgPipeline

    kinds = {kind.__name__ for kind in StableUnCLIPImg2ImgPipeline.__mro__}
    assert "DeprecatedPipelineMixin" not in kinds
    assert "deprecated" not in StableUnCLIPImg2ImgPipeline.__module__


def test_noise_level_and_prompt_encoder_change_pictures_and_digest(pipeline, folder):
    first, second = StableUnCLIP(folder), StableUnCLIP(folder, noise_level=400)
    assert first.digest == StableUnCLIP(folder).digest != second.digest
    drawn = first(tokens(), SEEDS)
    assert (drawn - second(tokens(), SEEDS)).abs().max() > 1e-3
    other = tiny.seeded(lambda: type(pipeline.text_encoder)(pipeline.text_encoder.config), seed=9)
    other.save_pretrained(folder / "text_encoder")
    third = StableUnCLIP(folder)
    assert third.digest != first.digest
    assert (drawn - third(tokens(), SEEDS)).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r"got noise level 1000, expected 0\.\.999"):
        StableUnCLIP(folder, noise_level=1000)


def test_a_unet_without_the_embeddings_place_is_refused(folder):
    tiny.seeded(tiny.unet).save_pretrained(folder / "unet")
    with pytest.raises(ValueError, match=r"unet: got labels by None.*expected 'projection', 16"):
        StableUnCLIP(folder)


def test_a_folder_of_another_pipeline_is_refused(tmp_path):
    tiny.save_versatile(tmp_path)
    with pytest.raises(ValueError, match=r"image_normalizer: no such folder.*ImageNormalizer"):
        StableUnCLIP(tmp_path)
