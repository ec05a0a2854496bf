"""Latent codecs: diffusers' own calls, real photos, closed forms; and what is wrong is named."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mindeye_dist.frozen import codecs
from mindeye_dist.frozen.codecs import AutoencoderKLCodec, LatentCodec, PixelCodec
from mindeye_dist.frozen.open_codec import open_codec
from mindeye_dist.frozen.taef2 import TAEF2Codec
from mindeye_dist.pictures import PictureFiles, decode

WEIGHT_FILE = "diffusion_pytorch_model.safetensors"


def images(count=2, side=32, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def tiny_autoencoder():
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            scaling_factor=0.3,
        ).eval()
    # Random weights say little; this makes pictures that go out of range.
    vae.decoder.conv_out.weight.data.mul_(10)
    return vae


@pytest.fixture
def saved(tmp_path):
    """Return a tiny autoencoder and the folder it is saved in."""
    vae = tiny_autoencoder()
    vae.save_pretrained(tmp_path / "vae")
    return vae, tmp_path / "vae"


@pytest.fixture(scope="session")
def taef2_folder():
    folder = os.environ.get("MINDEYE_WEIGHTS", "")
    if not folder:
        pytest.skip("MINDEYE_WEIGHTS is not set: the folder of TAEF2's weights")
    return Path(folder)


# -- pixels --------------------------------------------------------------------------------------


def test_pixels_are_block_means_between_minus_one_and_one():
    """Oracle: the mean of each 4 x 4 block, by reshaping in NumPy."""
    codec, pictures = PixelCodec(8), images()
    assert isinstance(codec, LatentCodec)
    assert codec.shape == (3, 8, 8)
    blocks = pictures.numpy().reshape(2, 3, 8, 4, 8, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(codec.encode(pictures), 2 * blocks - 1, atol=1e-6)
    np.testing.assert_allclose(codec.decode(codec.encode(pictures)), blocks, atol=1e-6)


def test_decoded_pixels_stay_in_range():
    decoded = PixelCodec(4).decode(
        torch.tensor([-3.0, 0.0, 3.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    )
    np.testing.assert_array_equal(decoded[0, :, 0, 0], [0, 0.5, 1])


def test_digest_changes_with_the_side():
    assert PixelCodec(4).digest == PixelCodec(4).digest != PixelCodec(8).digest


# -- diffusers' autoencoder ----------------------------------------------------------------------


def test_autoencoder_is_diffusers_own_calls(saved):
    """Oracle: diffusers on pictures at the codec's side; the mode, not a sample."""
    vae, folder = saved
    codec, pictures = AutoencoderKLCodec(folder, side=32), images()
    assert isinstance(codec, LatentCodec)
    with torch.no_grad():
        latents = vae.encode(2 * pictures - 1).latent_dist.mean * 0.3
        decoded = (vae.decode(latents / 0.3).sample + 1) / 2
    assert tuple(latents.shape[1:]) == codec.shape == (4, 16, 16)
    torch.testing.assert_close(codec.encode(pictures), latents)
    torch.testing.assert_close(codec.decode(latents), decoded.clamp(0, 1))
    assert decoded.min() < 0
    assert decoded.max() > 1


def test_pictures_of_any_size_are_scaled_with_antialias(saved):
    """Oracle: Pillow's bilinear resampling, which widens its kernel when it shrinks."""
    from PIL import Image

    codec, picture = AutoencoderKLCodec(saved[1], side=32), images(1, 96)
    planes = [
        Image.fromarray(plane.numpy()).resize((32, 32), Image.BILINEAR) for plane in picture[0]
    ]
    small = torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))[None]
    torch.testing.assert_close(codec.encode(picture), codec.encode(small), atol=1e-3, rtol=1e-3)


def test_autoencoder_in_a_pipelines_folder(saved):
    _, folder = saved
    inner = AutoencoderKLCodec(folder.parent, subfolder="vae", side=32)
    assert inner.digest == AutoencoderKLCodec(folder, side=32).digest
    assert inner.digest != AutoencoderKLCodec(folder, side=64).digest


def test_the_real_architecture_on_the_meta_device():
    """Oracle: diffusers' shapes; 83,653,863 is the published autoencoder's size."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        latents = vae.encode(torch.zeros(1, 3, 512, 512)).latent_dist.mode()
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863
    assert codecs.latent_shape(vae, 512) == (4, 64, 64) == tuple(latents.shape[1:])
    assert vae.config.scaling_factor == 0.18215
    with pytest.raises(ValueError, match="got side 100, expected a multiple of 8"):
        codecs.latent_shape(vae, 100)


def test_a_codec_by_name_in_a_subfolder(tmp_path):
    """Oracle: the codec built from the inner folder."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    vae.save_pretrained(tmp_path / "vae")
    codec = open_codec("autoencoder-kl", str(tmp_path), (4, 4, 4), subfolder="vae")
    assert codec.digest == AutoencoderKLCodec(tmp_path / "vae", side=32).digest


def test_what_is_wrong_with_the_files_is_named(saved):
    _, folder = saved
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        AutoencoderKLCodec(folder / "nowhere")
    tensors = load_file(folder / WEIGHT_FILE)
    renamed = {"other": tensors.pop("decoder.conv_in.bias"), **tensors}
    save_file(renamed, folder / WEIGHT_FILE, {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing_keys.*decoder\.conv_in\.bias.*other"):
        AutoencoderKLCodec(folder, side=32)
    (folder / WEIGHT_FILE).write_bytes((folder / WEIGHT_FILE).read_bytes()[:999])
    with pytest.raises(ValueError, match="no AutoencoderKL could be loaded"):
        AutoencoderKLCodec(folder, side=32)


# -- what codecs refuse --------------------------------------------------------------------------


def test_latents_and_pictures_are_checked():
    codec = PixelCodec(4)
    with pytest.raises(
        ValueError, match=r"got latents \(2, 4, 4, 4\), expected \(batch, 3, 4, 4\)"
    ):
        codec.decode(torch.zeros(2, 4, 4, 4))
    broken = torch.zeros(2, 3, 4, 4)
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="pixels: latents: 1 of 96 values are not finite"):
        codec.decode(broken)
    with pytest.raises(ValueError, match="pixels: images: 1 of 96 values are not finite"):
        codec.encode(broken)


# -- TAEF2 ---------------------------------------------------------------------------------------


def test_taef2_round_trip_of_real_photos(taef2_folder):
    """Oracle: the published quality, 27 dB at 128 pixels; without the clamp it is 26."""
    photos = os.environ.get("MINDEYE_PHOTOS", "")
    if not photos:
        pytest.skip("MINDEYE_PHOTOS is not set: a tar of photos")
    codec = TAEF2Codec(taef2_folder, 128)
    pictures = torch.cat(photo_squares(Path(photos), 12))
    latents = codec.encode(pictures)
    assert isinstance(codec, LatentCodec)
    assert tuple(latents.shape[1:]) == codec.shape == (32, 16, 16)
    assert 0.7 < latents.std() < 1.1
    error = (codec.decode(latents) - pictures).square().mean(dim=(1, 2, 3))
    assert (-10 * error.log10()).mean() > 27


def photo_squares(path, count):
    """Return photos from all over a tar as squares of 128 pixels, cut from the middle."""
    squares = []
    with PictureFiles(path) as photos:
        for name in photos.names[:: len(photos.names) // count][:count]:
            pixels = decode(photos.read(name), name)
            side = min(pixels.shape[:2])
            top, left = ((size - side) // 2 for size in pixels.shape[:2])
            square = torch.from_numpy(pixels[top : top + side, left : left + side].copy())
            squares.append(codecs.resize(square.permute(2, 0, 1)[None] / 255, 128))
    return squares


def test_taef2_files_are_checked(taef2_folder, tmp_path):
    with pytest.raises(ValueError, match=r"taef2_encoder\.safetensors: the weights cannot"):
        TAEF2Codec(tmp_path)
    for part in ("encoder", "decoder"):
        tensors = load_file(taef2_folder / f"taef2_{part}.safetensors")
        save_file(tensors, tmp_path / f"taef2_{part}.safetensors")
    assert TAEF2Codec(tmp_path).digest == TAEF2Codec(taef2_folder).digest
    tensors["99.weight"] = tensors.pop("1.weight")
    save_file(tensors, tmp_path / "taef2_decoder.safetensors")
    with pytest.raises(ValueError, match=r"taef2_decoder.*1\.weight.*99\.weight"):
        TAEF2Codec(tmp_path)
    with pytest.raises(ValueError, match="got side 100, expected a multiple of 8"):
        TAEF2Codec(tmp_path, 100)
