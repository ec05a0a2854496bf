"""Augmentation: pure functions of (seed, recipe, picture, variant), with the published odds."""

import colorsys
import hashlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from mindeye_dist.data import augment as module
from mindeye_dist.data.augment import RECIPES, augment, run, variant_generator

SIDES = {"release": 224, "development": 224, "lowlevel": 512}
# The published probabilities, in the order of the published sequences.
ODDS = {
    "release": (0.3, 1, 0.5, 0.3, 0.3),
    "development": (0.3, 1, 0.3, 0.3),
    "lowlevel": (1, 0.8, 0.2, 0.2, 0.1, 1),
}


def picture(height=64, width=64, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def digest(image):
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()


def variant(how, number, image=None, seed=0):
    image = picture() if image is None else image
    return augment(image, how, variant_generator(seed, how, digest(image), number))


@pytest.mark.parametrize("how", RECIPES)
def test_a_variant_is_a_function_of_seed_picture_and_number(how):
    """Oracle: the same draw again, after others and after torch's own generator moved."""
    first = variant(how, 1)
    torch.rand(5)
    others = [variant(how, 2), variant(how, 1, seed=1), variant(how, 1, image=picture(seed=1))]
    assert torch.equal(variant(how, 1), first)
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("how", RECIPES)
def test_values_and_sizes(how):
    for number in range(12):
        view = variant(how, number, picture(80, 56))
        assert view.shape == (3, SIDES[how], SIDES[how])
        assert view.min() >= 0
        assert view.max() <= 1


@pytest.mark.parametrize("how", RECIPES)
def test_steps_come_with_the_published_odds(how):
    """Oracle: a count over many draws, within four deviations of the binomial."""
    counts = [0] * len(RECIPES[how])

    def counted(number):
        def apply(image, generator):
            counts[number] += 1
            generator.random()
            return image

        return apply

    steps = [replace(step, apply=counted(i)) for i, step in enumerate(RECIPES[how])]
    for number in range(3000):
        run(picture(2, 2), steps, variant_generator(0, how, "a picture", number))
    for count, odds in zip(counts, ODDS[how], strict=True):
        assert abs(count - 3000 * odds) <= 4 * np.sqrt(3000 * odds * (1 - odds))


@pytest.mark.parametrize("how", RECIPES)
def test_without_odds_nothing_happens(how):
    steps = [replace(step, probability=0.0) for step in RECIPES[how]]
    assert torch.equal(run(picture(), steps, np.random.default_rng(0)), picture())


def test_crops_lie_inside_and_cover_the_published_share():
    """Oracle: the corners of a picture whose values are its own rows and columns."""
    rows = torch.arange(200.0)[:, None].expand(200, 300)
    columns = torch.arange(300.0).expand(200, 300)
    image = torch.stack([rows, columns, rows])
    shares, generator = [], np.random.default_rng(0)
    for _ in range(400):
        cut = module.crop(image, generator, side=400, smallest=0.6)
        cut = cut.round()
        top, left = cut[0].min(), cut[1].min()
        height, width = cut[0].max() - top + 1, cut[1].max() - left + 1
        assert 3 / 4 - 0.02 < width / height < 4 / 3 + 0.02 or width == height
        assert top + height <= 200
        assert left + width <= 300
        shares.append(float(height * width) / 60000)
    assert 0.58 < min(shares) < 0.63
    assert max(shares) > 0.85
    assert len(set(shares)) > 300


def factors(apply, measure, count=300):
    generator = np.random.default_rng(0)
    return np.array([float(measure(apply(generator))) for _ in range(count)])


def spans(values, low, high):
    """Whether uniform draws fill [low, high] and nothing else."""
    margin = 0.05 * (high - low)
    inside = values.min() > low - 1e-4 and values.max() < high + 1e-4
    return bool(inside and values.min() < low + margin and values.max() > high - margin)


def test_jitter_has_the_published_ranges():
    """Oracle: each factor measured from pictures that reveal it, one kind of change at a time."""
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    published = RECIPES["release"][3].apply.keywords
    assert published == RECIPES["lowlevel"][1].apply.keywords
    flat = torch.full((3, 4, 4), 0.5)
    ramp = torch.linspace(0.4, 0.6, 3).expand(3, 4, 3)
    pinkish = torch.tensor([0.6, 0.5, 0.5])[:, None, None].expand(3, 4, 4)

    def only(kind, image):
        return partial(module.jitter, image, **{**still, kind: published[kind]})

    brightness = factors(only("brightness", flat), lambda p: p.mean() / 0.5)
    contrast = factors(only("contrast", ramp), lambda p: (p[0, 0, 2] - p[0, 0, 0]) / 0.2)
    saturation = factors(only("saturation", pinkish), lambda p: (p[0] - p[1]).mean() / 0.1)
    hue = factors(only("hue", pinkish), lambda p: signed_hue(p[:, 0, 0]))
    assert spans(brightness, 0.6, 1.4)
    assert spans(contrast, 0.6, 1.4)
    assert spans(saturation, 0.8, 1.2)
    assert spans(hue, -0.1, 0.1)


def signed_hue(rgb):
    """Return the hue as a share of the circle, -0.5 to 0.5."""
    return (colorsys.rgb_to_hsv(*rgb.tolist())[0] + 0.5) % 1 - 0.5


def test_jiggle_has_the_published_ranges():
    published = RECIPES["development"][3].apply.keywords
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    flat = torch.full((3, 4, 4), 0.5)
    pinkish = torch.tensor([0.6, 0.5, 0.5])[:, None, None].expand(3, 4, 4)

    def only(kind, image):
        return partial(module.jiggle, image, **{**still, kind: published[kind]})

    assert spans(factors(only("brightness", flat), lambda p: p.mean() - 0.5), -0.2, 0.2)
    assert spans(factors(only("contrast", flat), lambda p: p.mean() / 0.5), 0.8, 1.2)
    saturation = factors(
        only("saturation", pinkish), lambda p: colorsys.rgb_to_hsv(*p[:, 0, 0].tolist())[1] * 6
    )
    assert spans(saturation, 0.7, 1.3)


@pytest.mark.parametrize("factor", [0.0, 0.7, 1.0, 1.3, 50.0])
def test_saturation_is_that_of_hsv(factor):
    """Oracle: Python's colorsys, a pixel at a time."""
    image = torch.cat([picture(6, 6), torch.zeros(3, 1, 6), torch.full((3, 1, 6), 0.4)], dim=1)
    ours = module._saturate(image, factor).flatten(1).T.tolist()
    for pixel, got in zip(image.flatten(1).T.tolist(), ours, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb(hue, min(saturation * factor, 1), value)
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_solarize_inverts_what_is_bright():
    """Oracle: far from the threshold a value is shifted, or shifted and inverted."""
    image = torch.tensor([0.2, 0.8])[None, :, None].expand(3, 2, 2)
    generator = np.random.default_rng(0)
    for _ in range(50):
        dark, bright = module.solarize(image, generator)[0, :, 0].tolist()
        assert abs(dark - 0.2) <= 0.1 + 1e-6
        assert bright == pytest.approx(1 - (0.8 + dark - 0.2), abs=1e-6)


def test_blur_is_a_gaussian_of_the_published_widths():
    """Oracle: the variance of a blurred point: of seven taps at deviations 5, and 0.1 to 2."""
    point = torch.zeros(3, 15, 15)
    point[:, 7, 7] = 1
    taps = torch.arange(-3.0, 4)

    def middle(step):
        return run(point, [replace(step, probability=1.0)], np.random.default_rng(0))[0, :, 7]

    row = middle(RECIPES["development"][2])
    weights = torch.exp(-(taps**2) / 50)
    torch.testing.assert_close(row[4:11] / row.sum(), weights / weights.sum())
    assert RECIPES["lowlevel"][4].apply.keywords == {"narrowest": 0.1, "widest": 2.0}
