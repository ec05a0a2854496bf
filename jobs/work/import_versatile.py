"""Import of Versatile Diffusion: `.bin` weights -> safetensors, checked by loading them."""

from pathlib import Path

from jobs.command import absolute_path
from jobs.options.import_versatile import ImportVersatile
from mindeye_dist.generators.versatile import VersatileDiffusion, convert


def run(options: ImportVersatile) -> None:
    """Convert, and see that the result can be read."""
    folder = Path(absolute_path(options.out))
    convert(options.source, folder)
    generator = VersatileDiffusion(folder)
    print(f"{generator.name}, tokens {generator.token_shape}, digest {generator.digest}")
    print(folder)
