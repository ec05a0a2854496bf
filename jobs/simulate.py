"""Simulate subjects: pictures -> targets -> brains -> shards, manifest, targets and the truth.

`python jobs/simulate.py` makes the demo's subject from the project's own rendered scenes;
`--images` takes a folder or tar of pictures instead, `--preset nsd-subj01` the size and noise of a
subject of NSD. All voxels are simulated, and the manifest says so.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.simulate import Simulate


def parse(arguments: list[str]) -> Simulate:
    """Return the options of a command line."""
    return tyro.cli(Simulate, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Simulate subjects."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.simulate import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
