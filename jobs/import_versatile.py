"""Versatile Diffusion's published `.bin` weights -> safetensors, which is all that is read of it.

`python jobs/import_versatile.py FOLDER_OR_HUB_NAME --out FOLDER`, once; FOLDER is then the weights
of the generator versatile-diffusion. Only the image UNet, the autoencoder and the scheduler's
settings are written.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.command import absolute_path, clear_errors
from mindeye_dist.generators.versatile import VersatileDiffusion, convert


@dataclass(frozen=True, kw_only=True)
class ImportVersatile:
    """Turn the published pipeline into one that can be read without pickle."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of the pipeline, or its name on the hub: shi-labs/versatile-diffusion."""
    out: str
    """Folder to write, on this machine."""


def main(arguments: list[str]) -> None:
    """Parse the command line, convert, and see that the result can be read."""
    with clear_errors():
        options = tyro.cli(ImportVersatile, args=arguments, description=__doc__)
        folder = Path(absolute_path(options.out))
        convert(options.source, folder)
        generator = VersatileDiffusion(folder)
        print(f"{generator.name}, tokens {generator.token_shape}, digest {generator.digest}")
        print(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
