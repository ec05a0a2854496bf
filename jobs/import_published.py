"""Import published weights: `python jobs/import_published.py last.pth --data-url data/nsd --out F`.

Takes a `.pth` that Scotti et al. released (257x768, 1x768 or autoencoder) and writes a checkpoint
that `Predictor` and `jobs/evaluate.py --checkpoint F` read. The file must hold exactly the
published keys and shapes for the subject; the output accounts for every tensor.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.import_published import ImportPublished


def parse(arguments: list[str]) -> ImportPublished:
    """Return the options of a command line."""
    return tyro.cli(ImportPublished, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Import the file and print how each part of it was used."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.import_published import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
