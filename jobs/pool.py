"""Pool: pictures -> an index on disk; a run's test brains -> the nearest pictures of the index.

`python jobs/pool.py build --images FOLDER_OR_TAR --out pools/photos --encoder clip-vit-l-14` once,
then `python jobs/pool.py search --pool pools/photos --run-dir RUN --out FOLDER` for any run on the
same clip_tokens. Pictures that the brain saw are excluded unless `--include-seen` is given, with
their resized or recompressed copies; other crops of them are not recognised.
"""

import logging
import sys
from typing import Annotated

import tyro
from tyro.conf import subcommand

from jobs.command import clear_errors
from jobs.options.pool import Build, Search


def parse(arguments: list[str]) -> Build | Search:
    """Return the options of a command line."""
    logging.getLogger("faiss").setLevel(logging.WARNING)  # its first message lists compile options
    return tyro.cli(
        Annotated[Build, subcommand("build")] | Annotated[Search, subcommand("search")],
        args=arguments,
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def main(arguments: list[str]) -> None:
    """Build or search a pool."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.pool import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
