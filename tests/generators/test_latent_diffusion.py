"""What holds for every latent diffusion generator, shown on both."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mindeye_dist.frozen.codecs import AutoencoderKLCodec
from mindeye_dist.generators.latent_diffusion import Sampling
from mindeye_dist.generators.unclip import DEFAULT, StableUnCLIP
from mindeye_dist.generators.versatile import PUBLISHED, VersatileDiffusion
from tests import tiny_pipelines as tiny

# diffusers' UniPC makes NumPy arrays of tensors in a way that NumPy 2 will not have for ever.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
KINDS = {"versatile": (VersatileDiffusion, PUBLISHED), "unclip": (StableUnCLIP, DEFAULT)}
UNETS = {"versatile": "image_unet", "unclip": "unet"}
SEEDS = [3, 4, 5]


def save(kind, folder):
    if kind == "versatile":
        return tiny.save_versatile(folder)
    tiny.unclip_pipeline().save_pretrained(folder)
    return folder


def build(kind, folder, dtype="fp32", **changes):
    """Return a generator with its own defaults, but of few steps."""
    generator, sampling = KINDS[kind]
    return generator(folder, replace(sampling, **{"steps": 6, **changes}), dtype=dtype)


@pytest.fixture(scope="module", params=sorted(KINDS))
def saved(request, tmp_path_factory):
    """Return the name and folder of a pipeline of each kind."""
    return request.param, save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def generator(saved):
    return build(*saved)


def tokens(generator, count=3):
    shape = (count, *generator.token_shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def pictures(count=3, side=tiny.SIDE):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_picture_does_not_depend_on_its_batch(generator, strength):
    given, start = tokens(generator), pictures(side=40)
    together = generator(given, SEEDS, start, strength)
    assert together.shape == (3, 3, tiny.SIDE, tiny.SIDE)
    for row, seed in enumerate(SEEDS):
        one = slice(row, row + 1)
        alone = generator(given[one], [seed], start[one], strength)
        torch.testing.assert_close(together[one], alone, atol=1e-4, rtol=0)
    # The first picture again, with tokens or a seed of its own.
    assert (generator(given[:1], [99]) - generator(given[:1], [3])).abs().max() > 1e-2
    assert (generator(given[1:2], [3]) - generator(given[:1], [3])).abs().max() > 1e-3


def test_strength_zero_is_the_autoencoders_round_trip(saved, generator):
    """Oracle: the codec of the same autoencoder."""
    codec = AutoencoderKLCodec(saved[1], subfolder="vae", side=tiny.SIDE)
    round_trip = codec.decode(codec.encode(pictures(side=40)))
    for strength in (0.0, 0.04):
        drawn = generator(tokens(generator), SEEDS, pictures(side=40), strength)
        torch.testing.assert_close(drawn, round_trip)


def test_strength_one_ignores_the_initial_picture(generator):
    given = tokens(generator)
    assert torch.equal(generator(given, SEEDS, pictures(), 1.0), generator(given, SEEDS))
    assert not torch.equal(generator(given, SEEDS, pictures(), 0.9), generator(given, SEEDS))


def test_guidance_of_one_is_the_conditioned_network_alone(saved):
    """Oracle: the guided formula in the limit, u + g (c - u) -> c as g -> 1."""
    alone, guided = (build(*saved, guidance=g) for g in (1.0, 1.0 + 1e-6))
    given = tokens(alone)
    torch.testing.assert_close(alone(given, SEEDS), guided(given, SEEDS), atol=1e-4, rtol=0)


def test_bf16_is_near_fp32_and_comes_back_as_float32(saved, generator):
    half = build(*saved, dtype="bf16")
    drawn = half(tokens(generator), SEEDS)
    assert drawn.dtype == torch.float32
    assert (drawn - generator(tokens(generator), SEEDS)).abs().mean() < 0.05
    assert half.digest != generator.digest == build(*saved).digest
    assert generator.encoder_digest == ""


def test_digest_knows_settings_that_weights_do_not_show(saved, generator, tmp_path):
    """The number of attention heads changes pictures, but no tensor."""
    kind, folder = saved[0], save(saved[0], tmp_path)
    path = folder / UNETS[kind] / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "attention_head_dim": 2}))
    other = build(kind, folder)
    given = tokens(generator)
    assert other.digest != generator.digest
    assert not torch.equal(other(given, SEEDS), generator(given, SEEDS))


def test_a_picture_that_half_precision_breaks_is_named(saved, tmp_path):
    """Oracle: float16 ends at 65,504."""
    kind, folder = saved[0], save(saved[0], tmp_path)
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_in.weight"] *= 1e6
    save_file(tensors, path, {"format": "pt"})
    half = build(kind, folder, dtype="fp16")
    with pytest.raises(ValueError, match=r"pictures of seeds \[3, 4, 5\] are not finite"):
        half(tokens(half), SEEDS, pictures(), 0.0)


def test_requests_that_do_not_fit_are_refused(generator):
    given = tokens(generator)
    length, dim = generator.token_shape
    with pytest.raises(ValueError, match=rf"got tokens \(3, {length}, 7\), expected .*{dim}\)"):
        generator(given[:, :, :7], SEEDS)
    broken = given.clone()
    broken[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="tokens of 1 of 3 are not finite"):
        generator(broken, SEEDS)
    with pytest.raises(ValueError, match="got 2 seeds for 3 pictures"):
        generator(given, SEEDS[:2])


def test_what_is_wrong_with_the_files_is_named(saved, tmp_path):
    kind, folder = saved[0], save(saved[0], tmp_path)
    with pytest.raises(ValueError, match="nowhere.*no such folder"):
        build(kind, folder / "nowhere")
    path = folder / UNETS[kind] / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({"other": tensors.pop("conv_in.bias"), **tensors}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{UNETS[kind]}.*missing_keys.*conv_in\.bias.*other"):
        build(kind, folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "got 0 steps, expected 1 or more"),
        ({"guidance": 0.5}, "got guidance 0.5, expected 1 or more"),
        ({"guidance": float("nan")}, "got guidance nan"),
    ],
)
def test_sampling_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**fields)
