"""Scores of pictures: image_metrics on whole arrays, closed forms, torchvision's resize."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from mindeye_dist.evaluation import picture_scores
from mindeye_dist.evaluation.image_metrics import correlation, pixcorr, ssim, two_way
from mindeye_dist.evaluation.picture_scores import METRICS, PictureJudge, published_size
from mindeye_dist.frozen.metric_networks import FeatureNetwork


def pictures(count, side=20, seed=0):
    return np.random.default_rng(seed).random((count, 3, side, side), dtype=np.float32)


class Thumbnails:
    """Network whose features are a small picture; counts the pictures that it was given."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        """Return one row a picture."""
        self.seen += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)


def networks(features):
    return [
        FeatureNetwork(key="alexnet2", label="AlexNet(2)", score="two_way", features=features),
        FeatureNetwork(key="swav", label="SwAV", score="distance", features=features),
    ]


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    """Score small pictures in several batches; the published sizes have a test of their own."""
    for name, value in {"PIXEL_SIDE": 40, "BATCH": 3}.items():
        monkeypatch.setattr(picture_scores, name, value)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("side", [256, 425])
def test_sizes_are_torchvisions(side, antialias):
    """Oracle: torchvision's resize, and the bounds."""
    images = pictures(2, side=300)
    expected = functional.resize(torch.from_numpy(images), [side, side], antialias=antialias)
    np.testing.assert_allclose(published_size(images, side, antialias), expected, atol=1e-6)
    outside = published_size(images * 3 - 1, side)
    assert (outside.min(), outside.max()) == (0, 1)


def test_scores_are_those_of_image_metrics():
    """Oracle: the functions on all pictures at once, resized by torchvision."""
    seen = pictures(8)
    recon = 0.5 * seen + 0.5 * pictures(8, seed=1)
    result = PictureJudge(seen, networks(Thumbnails())).scores(recon, 0)
    small = [
        functional.resize(torch.from_numpy(p), [256, 256], antialias=False) for p in (seen, recon)
    ]
    pixels = [functional.resize(p, [40, 40], antialias=False).clamp(0, 1).numpy() for p in small]
    vectors = [Thumbnails()(p).numpy() for p in small]
    expected = {
        "pixcorr": pixcorr(*pixels),
        "ssim": ssim(*pixels),
        "alexnet2": two_way(*vectors),
        "swav": 1 - correlation(*vectors),
    }
    for key, values in expected.items():
        assert result[key]["mean"] == pytest.approx(values.mean(), abs=1e-5)
        low, high = result[key]["ci"]
        assert low <= result[key]["mean"] <= high
        assert (result[key]["undefined"], result[key]["undefined_pictures"]) == (0, [])


def test_a_perfect_reconstruction_scores_1_1_1_0():
    seen = pictures(7)
    result = PictureJudge(seen, networks(Thumbnails())).scores(seen, 0)
    for key, perfect in {"pixcorr": 1, "ssim": 1, "alexnet2": 1, "swav": 0}.items():
        assert METRICS[key].perfect == perfect
        assert result[key]["mean"] == pytest.approx(perfect, abs=1e-6)
        assert result[key]["ci"] == pytest.approx([perfect, perfect], abs=1e-6)


def test_two_way_of_shuffled_pairs_is_chance_within_its_interval():
    seen = pictures(60)
    recon = 0.7 * seen + 0.3 * pictures(60, seed=1)
    order = np.random.default_rng(2).permutation(60)
    judge = PictureJudge(seen, networks(Thumbnails()))
    low, high = judge.scores(recon[order], 0)["alexnet2"]["ci"]
    assert low < METRICS["alexnet2"].chance == 0.5 < high
    assert judge.scores(recon, 0)["alexnet2"]["ci"][0] > 0.9


@pytest.mark.parametrize("color", [(0.1, 0.1, 0.1), (0.9, 0.2, 0.1)])
def test_pictures_of_one_colour_are_counted_and_named(color):
    """Two of six reconstructions and one seen picture are flat: 0 by correlation, SSIM as it is."""
    seen = pictures(6)
    recon = seen.copy()
    recon[[1, 4]] = np.array(color, np.float32)[:, None, None]
    seen[5] = 0.3
    result = PictureJudge(seen, []).scores(recon, 0)
    assert result["pixcorr"]["undefined"] == 3
    assert result["pixcorr"]["undefined_pictures"] == [1, 4, 5]
    assert result["pixcorr"]["mean"] == pytest.approx(3 / 6)
    assert result["ssim"]["undefined"] == 0
    assert 3 / 6 < result["ssim"]["mean"] < 1


def test_constant_features_are_counted_and_score_worst():
    seen = pictures(6)
    recon = seen.copy()
    recon[[0, 3]] = 0.7
    result = PictureJudge(seen, networks(Thumbnails())).scores(recon, 0)
    for key, mean in {"alexnet2": 4 / 6, "swav": 2 / 6}.items():
        assert result[key]["mean"] == pytest.approx(mean, abs=1e-6)
        assert result[key]["undefined_pictures"] == [0, 3]


def test_missing_networks_are_named_gaps():
    seen, gaps = pictures(3), {"clip": "weights 'hub' cannot be had"}
    result = PictureJudge(seen, networks(Thumbnails()), gaps=gaps).scores(seen, 0)
    assert list(result) == list(METRICS)
    assert result["clip"] == {"gap": gaps["clip"]}
    assert result["alexnet5"] == {"gap": "weights not given: --networks.alexnet PATH"}


def test_features_of_seen_pictures_are_made_once_and_shared():
    features = Thumbnails()
    judge = PictureJudge(pictures(5), networks(features))
    for seed in range(2):
        judge.scores(pictures(5, side=12, seed=seed), seed)
    assert features.seen == 3 * 5


def test_an_interval_depends_on_the_seed_alone():
    judge = PictureJudge(pictures(9), [])
    first, again, other = (
        judge.scores(pictures(9, seed=1), seed)["ssim"]["ci"] for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("recon", "message"),
    [
        (pictures(4), "got 4 reconstructed pictures for 5 seen ones"),
        (pictures(5)[:, :1], r"reconstructed pictures: got shape \(5, 1, 20, 20\), expected"),
        (pictures(5)[:, :, 1:], r"got shape \(5, 3, 19, 20\), expected \(pictures, 3, side, side"),
        ((pictures(5) * 255).astype(np.uint8), "got uint8, expected float32"),
        (
            np.stack([*pictures(3), *(pictures(2) * 255)]),
            r"reconstructed pictures \[3, 4\]: .* 0..1",
        ),
        (np.where(pictures(5) > 0.9, np.float32("nan"), pictures(5)), "not finite"),
    ],
)
def test_what_cannot_be_compared_is_named(recon, message):
    with pytest.raises(ValueError, match=message):
        PictureJudge(pictures(5), []).scores(recon, 0)


def test_networks_that_fail_or_are_of_no_metric_are_named():
    def broken(images):
        return images.flatten(1) / (images.flatten(1) > 0.5)

    with pytest.raises(ValueError, match=r"AlexNet\(2\): features of seen pictures \[0, 1, 2\]"):
        PictureJudge(pictures(3), networks(broken))
    with pytest.raises(ValueError, match="network or gap 'vgg', expected one of"):
        PictureJudge(pictures(3), [], gaps={"vgg": "no such metric"})
    with pytest.raises(ValueError, match="metric swav: got more than one network or gap"):
        PictureJudge(pictures(3), networks(Thumbnails()), gaps={"swav": "twice"})
