"""Fit the projection of rendered scenes' tokens, as the one that comes with the project was.

That one is mindeye_dist/assets/scenes-encoder.safetensors. Whoever replaces it must train the
generator again, and simulate subjects anew: tokens mean something else then.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from jaxtyping import Float
from torch import Tensor

from jobs.command import absolute_path, clear_errors, watched
from jobs.opening.generator_pictures import picture_tensor
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.encoders import ENCODED_AT_ONCE
from mindeye_dist.frozen.projection import ProjectedEncoder
from mindeye_dist.pictures import encode_jpeg
from mindeye_dist.simulation.config import GENERATOR_SERIES
from mindeye_dist.simulation.scenes import render_scene
from tools.scene_projection import fit_scene_projection


@dataclass(frozen=True, kw_only=True)
class FitScenes:
    """Fit the projection of EfficientNet-Lite0's channels to rendered scenes."""

    out: str = "runs/scenes-encoder.safetensors"
    """File to write."""
    scenes: int = 16_000
    """Scenes of the generator's series to fit to, from its first; no subject sees these."""


def fit_scenes(options: FitScenes) -> ProjectedEncoder:
    """Render, encode and fit, and write the projection."""
    base = EfficientNetLite0(efficientnet_lite0_weights())

    def batches() -> Iterator[tuple[Float[Tensor, "_ tokens channels"], Sequence[dict[str, str]]]]:
        starts = range(0, options.scenes, ENCODED_AT_ONCE)
        for start in watched(starts, "encoding scenes, batch"):
            numbers = range(start, min(start + ENCODED_AT_ONCE, options.scenes))
            scenes = [render_scene(number, GENERATOR_SERIES) for number in numbers]
            images = picture_tensor([encode_jpeg(scene.picture) for scene in scenes])
            yield base(images), [scene.factors for scene in scenes]

    encoder = ProjectedEncoder(base, fit_scene_projection(batches()))
    path = Path(absolute_path(options.out))
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder.save(path)
    return encoder


def main(arguments: list[str]) -> None:
    """Parse the command line and fit."""
    with clear_errors():
        options = tyro.cli(FitScenes, args=arguments, description=__doc__)
        encoder = fit_scenes(options)
        print(f"{options.out}: {encoder.name}, digest {encoder.digest}")


if __name__ == "__main__":
    main(sys.argv[1:])
