"""Embed: pictures of the shards -> targets by a frozen model, on Ray Data.

`python jobs/embed.py --data-url URL --encoder clip-vit-l-14 --variants 4` writes one set of targets
for all subjects, and enters it into the manifest last. An interrupted job continues when started
again.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.embed import Embed


def parse(arguments: list[str]) -> Embed:
    """Return the options of a command line."""
    return tyro.cli(Embed, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Compute targets."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.embed import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
