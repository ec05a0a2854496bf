"""Embed brains: `python jobs/embed_brains.py --run-dir runs/demo`, on Ray Data.

Voxels of a split -> the projector's embeddings, as shards of `KEY.embedding.npy` in a folder or on
S3. (`jobs/embed.py` embeds pictures.) Started again, a killed job makes only the missing shards.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.embed_brains import EmbedBrains


def parse(arguments: list[str]) -> EmbedBrains:
    """Return the options of a command line."""
    return tyro.cli(EmbedBrains, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Embed the brains of a split."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.embed_brains import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
