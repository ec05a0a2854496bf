"""Convert Versatile Diffusion's published `.bin` weights to safetensors, the only format read here.

Writes the image UNet, the autoencoder and the scheduler's settings.
"""

from pathlib import Path

from jobs.command import absolute_path
from jobs.options.import_versatile import ImportVersatile
from mindeye_dist.generators.versatile import VersatileDiffusion, convert


def run(options: ImportVersatile) -> None:
    """Convert the pipeline, and check that the result can be read."""
    folder = Path(absolute_path(options.out))
    convert(options.source, folder)
    generator = VersatileDiffusion(folder)
    print(f"{generator.name}, tokens {generator.token_shape}, digest {generator.digest}")
    print(folder)
