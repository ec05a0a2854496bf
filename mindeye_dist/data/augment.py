"""Augmented variants of pictures, as the published trainers showed them to the frozen encoders.

Only the targets' side is augmented, never the voxels (Scotti et al. 2023, image augmentation). The
published code augments whole batches as it goes; here variant k of a picture is a function of
(seed, recipe, the picture's bytes, k), so that it can be computed once and by any worker. Each step
is drawn for each picture on its own. Parameter ranges are the published ones, with the meaning that
the kornia library gives them; crops are resampled bilinearly without a filter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from mindeye_dist.randomness import numpy_generator
from mindeye_dist.shapes import Augmentation

Picture = Float[Tensor, "3 _ _"]

CLIP_SIDE, LOWLEVEL_SIDE = 224, 512
DEVELOPMENT_CROP_SIDE = 240
CROP_ASPECTS = (3 / 4, 4 / 3)
CROP_TRIES = 10
BLUR_WIDTH = 7
SOLARIZE_THRESHOLD, SOLARIZE_ADDITION = (0.4, 0.6), (-0.1, 0.1)


@dataclass(frozen=True)
class Step:
    """An operation that is applied to a picture with a probability."""

    probability: float
    apply: Callable[[Tensor, np.random.Generator], Tensor]


def variant_generator(
    seed: int, how: Augmentation, picture_sha256: str, variant: int
) -> np.random.Generator:
    """Return the generator that draws variant `variant` (from 1 on) of a picture."""
    return numpy_generator(seed, "augment", how, picture_sha256, variant)


def augment(
    picture: Float[Tensor, "3 height width"], how: Augmentation, generator: np.random.Generator
) -> Float[Tensor, "3 side side"]:
    """Return a random variant of a picture with values in [0, 1].

    Args:
        picture: RGB in [0, 1].
        how: "release", the published training script's (224 pixels wide); "development", that of
            the script that the published weights come from (224); "lowlevel", the second view of
            the low-level contrastive loss (512).
        generator: draws everything that is random.
    """
    return run(picture, RECIPES[how], generator)


def run(picture: Picture, steps: Sequence[Step], generator: np.random.Generator) -> Picture:
    """Apply each step with its probability, in their order."""
    for step in steps:
        if generator.random() < step.probability:
            picture = step.apply(picture, generator)
    return picture


def crop(
    picture: Picture, generator: np.random.Generator, *, side: int, smallest: float
) -> Picture:
    """Scale a random rectangle to `side` x `side`.

    It covers `smallest` to all of the picture's area, its aspect is log-uniform in `CROP_ASPECTS`.
    """
    height, width = picture.shape[-2:]
    for _ in range(CROP_TRIES):
        area = height * width * generator.uniform(smallest, 1)
        aspect = np.exp(generator.uniform(*np.log(CROP_ASPECTS)))
        rows, columns = round(np.sqrt(area / aspect)), round(np.sqrt(area * aspect))
        if rows <= height and columns <= width:
            top = int(generator.integers(height - rows + 1))
            left = int(generator.integers(width - columns + 1))
            return resize(picture[:, top : top + rows, left : left + columns], side=side)
    return resize(functional.center_crop(picture, [min(height, width)] * 2), side=side)


def resize(
    picture: Picture,
    generator: np.random.Generator | None = None,  # noqa: ARG001 - a step like the others
    *,
    side: int,
    antialias: bool = False,
) -> Picture:
    """Scale a picture to `side` x `side` whatever its aspect."""
    return functional.resize(
        picture, [side, side], interpolation=InterpolationMode.BILINEAR, antialias=antialias
    )


def flip(picture: Picture, _: np.random.Generator) -> Picture:
    """Mirror left and right."""
    return functional.horizontal_flip(picture)


def grey(picture: Picture, _: np.random.Generator) -> Picture:
    """Take the colour away."""
    return functional.rgb_to_grayscale(picture, num_output_channels=3)


def blur(
    picture: Picture, generator: np.random.Generator, *, widest: float, narrowest: float
) -> Picture:
    """Blur with a 7 x 7 Gaussian whose deviation lies between two bounds (pixels)."""
    return functional.gaussian_blur(
        picture, [BLUR_WIDTH] * 2, [float(generator.uniform(narrowest, widest))] * 2
    )


def solarize(picture: Picture, generator: np.random.Generator) -> Picture:
    """Shift all values a little, then invert those above a threshold near the middle."""
    threshold = generator.uniform(*SOLARIZE_THRESHOLD)
    shifted = (picture + generator.uniform(*SOLARIZE_ADDITION)).clamp(0, 1)
    return functional.solarize(shifted, threshold)


def jitter(
    picture: Picture,
    generator: np.random.Generator,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Picture:
    """Change brightness, contrast, saturation and hue in random order, as Pillow does.

    Factors lie within 1 +- the given widths; the hue turns by +- `hue` of a circle.
    """
    changes = (
        partial(functional.adjust_brightness, brightness_factor=_factor(generator, brightness)),
        partial(functional.adjust_contrast, contrast_factor=_factor(generator, contrast)),
        partial(functional.adjust_saturation, saturation_factor=_factor(generator, saturation)),
        partial(functional.adjust_hue, hue_factor=_factor(generator, hue) - 1),
    )
    for number in generator.permutation(len(changes)):
        picture = changes[number](picture)
    return picture


def jiggle(
    picture: Picture,
    generator: np.random.Generator,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
) -> Picture:
    """Change brightness, contrast and saturation in random order, as kornia's ColorJiggle does.

    Brightness is added, contrast scales from black, and saturation is that of HSV.
    """
    added = _factor(generator, brightness) - 1
    scale = _factor(generator, contrast)
    saturated = _factor(generator, saturation)
    changes = (
        lambda p: (p + added).clamp(0, 1),
        lambda p: (p * scale).clamp(0, 1),
        lambda p: _saturate(p, saturated),
    )
    for number in generator.permutation(len(changes)):
        picture = changes[number](picture)
    return picture


def _factor(generator: np.random.Generator, width: float) -> float:
    return float(generator.uniform(1 - width, 1 + width))


def _saturate(picture: Picture, factor: float) -> Picture:
    """Multiply HSV saturation, at most to 1; hue and value stay.

    At a fixed hue each channel's distance from the largest is in proportion to the saturation.
    """
    value = picture.amax(dim=0, keepdim=True)
    depth = value - picture
    saturation = depth.amax(dim=0, keepdim=True) / value.clamp_min(torch.finfo(value.dtype).tiny)
    limit = 1 / saturation.clamp_min(torch.finfo(value.dtype).tiny)
    return value - depth * limit.clamp_max(factor)


_published_jitter = partial(jitter, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)

RECIPES: Mapping[Augmentation, tuple[Step, ...]] = {
    "release": (
        Step(0.3, partial(crop, side=CLIP_SIDE, smallest=0.6)),
        Step(1.0, partial(resize, side=CLIP_SIDE)),
        Step(0.5, flip),
        Step(0.3, _published_jitter),
        Step(0.3, grey),
    ),
    "development": (
        Step(0.3, partial(crop, side=DEVELOPMENT_CROP_SIDE, smallest=0.6)),
        Step(1.0, partial(resize, side=CLIP_SIDE)),
        Step(0.3, partial(blur, narrowest=5.0, widest=5.0)),
        Step(0.3, partial(jiggle, brightness=0.2, contrast=0.2, saturation=0.3)),
    ),
    "lowlevel": (
        Step(1.0, partial(resize, side=LOWLEVEL_SIDE, antialias=True)),
        Step(0.8, _published_jitter),
        Step(0.2, grey),
        Step(0.2, solarize),
        Step(0.1, partial(blur, narrowest=0.1, widest=2.0)),
        Step(1.0, partial(crop, side=LOWLEVEL_SIDE, smallest=0.5)),
    ),
}
