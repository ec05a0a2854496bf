"""Reconstruct pictures from voxels: `python jobs/reconstruct.py --run-dir runs/demo`, on Ray Data.

Voxels of a split -> candidates -> the best by the projector's output, as shards of pictures with
their candidates and scores in a folder or on S3. Started again, a killed job makes only the missing
shards.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.reconstruct import Reconstruct


def parse(arguments: list[str]) -> Reconstruct:
    """Return the options of a command line."""
    return tyro.cli(Reconstruct, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Reconstruct a split."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.reconstruct import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
