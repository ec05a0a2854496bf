"""Convert Versatile Diffusion's published `.bin` weights to safetensors, the only format read here.

`python jobs/import_versatile.py FOLDER_OR_HUB_NAME --out FOLDER`, once; FOLDER is then the weights
of the generator versatile-diffusion. Only the image UNet, the autoencoder and the scheduler's
settings are written.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.import_versatile import ImportVersatile


def parse(arguments: list[str]) -> ImportVersatile:
    """Return the options of a command line."""
    return tyro.cli(ImportVersatile, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Convert the pipeline, and check that the result can be read."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.import_versatile import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
