"""The project's own autoencoder. Oracles: the network by hand, what was saved, a closed form."""

import pytest
import torch

from mindeye_dist.frozen.codecs import LatentCodec
from mindeye_dist.frozen.config import AutoencoderConfig
from mindeye_dist.frozen.open_codec import open_codec
from mindeye_dist.frozen.small_autoencoder import Autoencoder, SmallAutoencoder, reconstruction_loss

CONFIG = AutoencoderConfig(channels=3, widths=(4, 6))


def autoencoder(side=16):
    torch.manual_seed(0)
    return SmallAutoencoder(Autoencoder(CONFIG), CONFIG, side, about={"a": 1})


def images(count=2, side=16):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_it_is_a_codec_of_a_quarter_of_the_width():
    codec = autoencoder(24)
    assert isinstance(codec, LatentCodec)
    latents = codec.encode(images(side=48))
    assert latents.shape == (2, *codec.shape) == (2, 3, 6, 6)
    assert latents.abs().max() < 1
    decoded = codec.decode(latents)
    assert decoded.shape == (2, 3, 24, 24)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_pictures_are_averaged_down_and_centred():
    """Oracle: the network, given the picture by hand."""
    codec, given = autoencoder(), images(side=32)
    small = given.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-1, -2))
    torch.manual_seed(0)
    network = Autoencoder(CONFIG).half().float()
    with torch.no_grad():
        wanted = network.encoder(2 * small - 1)
        torch.testing.assert_close(codec.encode(given), wanted, atol=1e-6, rtol=0)
        picture = (network.decoder(wanted) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(codec.decode(wanted), picture, atol=1e-6, rtol=0)


def test_what_is_saved_is_what_was_there(tmp_path):
    codec, path = autoencoder(), tmp_path / "autoencoder.safetensors"
    codec.save(path)
    loaded = SmallAutoencoder.load(path)
    assert (loaded.digest, loaded.shape, loaded.about) == (codec.digest, codec.shape, {"a": 1})
    torch.testing.assert_close(loaded.encode(images()), codec.encode(images()), atol=0, rtol=0)
    assert open_codec("small-autoencoder", str(path), (3, 4, 4)).digest == codec.digest


def test_the_digest_knows_weights_and_side():
    codec = autoencoder()
    assert codec.digest != autoencoder(24).digest
    network = Autoencoder(CONFIG)
    assert codec.digest != SmallAutoencoder(network, CONFIG, 16).digest


def test_the_loss_is_the_error_of_pictures_and_of_their_edges():
    """Oracle: a decoder that answers zeros; a picture with one edge."""
    network = Autoencoder(CONFIG)
    for parameter in network.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    picture = torch.full((1, 3, 16, 16), 0.5)
    picture[..., 8:] = -0.5
    loss = reconstruction_loss(network, picture, 0.1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, torch.tensor(0.5 + 1 / 15))


def test_it_learns_two_pictures():
    torch.manual_seed(0)
    network = Autoencoder(CONFIG)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    pictures = 2 * images()[:, :, :2, :2].repeat_interleave(8, 2).repeat_interleave(8, 3) - 1
    losses = []
    for step in range(200):
        noise = torch.Generator().manual_seed(step)
        loss = reconstruction_loss(network, pictures, 0.05, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_broken_input_is_named(tmp_path):
    codec = autoencoder()
    with pytest.raises(ValueError, match="small-autoencoder: side: got 18, expected a multiple"):
        autoencoder(18)
    bad = images()
    bad[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="small-autoencoder: images: 1 of 1536 values"):
        codec.encode(bad)
    with pytest.raises(ValueError, match="expected"):
        codec.decode(torch.zeros(1, 3, 5, 5))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no autoencoder's file"):
        SmallAutoencoder.load(broken)
    with pytest.raises(ValueError, match="is no autoencoder's file"):
        SmallAutoencoder.load(tmp_path / "missing.safetensors")
    codec.save(tmp_path / "there.safetensors")
    with pytest.raises(ValueError, match=r"its latents are \(3, 4, 4\), expected \(8, 8, 8\)"):
        open_codec("small-autoencoder", str(tmp_path / "there.safetensors"), (8, 8, 8))
