"""Embed brains: `python jobs/embed_brains.py --run-dir runs/demo`, on Ray Data.

Voxels of a split -> the projector's embeddings, as shards of `KEY.embedding.npy` in a folder or on
S3, by the Predictor that is evaluated and served. (`jobs/embed.py` embeds pictures.) Started again,
a killed run makes the missing shards alone.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.embed_brains import EmbedBrains


def parse(arguments: list[str]) -> EmbedBrains:
    """Return the options of a command line."""
    return tyro.cli(EmbedBrains, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Embed."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.embed_brains import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
