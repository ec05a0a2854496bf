"""Make shards: index published ones in place, or convert fMRI volumes to new ones.

`python jobs/shards.py index URL` makes `manifest.json` and an index of every tar for shards in the
published layout, reading tar headers only. `python jobs/shards.py convert` makes shards of 4-D
NIfTI files (time series, or GLM responses, a volume a trial), a mask and a table of events.
"""

import sys
from typing import Annotated

import tyro
from tyro.conf import subcommand

from jobs.command import clear_errors
from jobs.options.shards import Convert, Index


def parse(arguments: list[str]) -> Index | Convert:
    """Return the options of a command line."""
    return tyro.cli(
        Annotated[Index, subcommand("index")] | Annotated[Convert, subcommand("convert")],
        args=arguments,
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def main(arguments: list[str]) -> None:
    """Index or convert shards."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.shards import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
