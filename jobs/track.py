"""Send MLflow what it missed of a run: `python jobs/track.py --run-dir runs/demo`.

The run's journal has every metric. What MLflow has of them already, key by key and step by step, is
not sent again, so that the job may be run twice, or after anything that was cut off. Where MLflow
does not know the run, it is made there, with its settings; how the run ended is told last. A run
that still trains sends its metrics itself.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.track import Track


def parse(arguments: list[str]) -> Track:
    """Return the options of a command line."""
    return tyro.cli(Track, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Send."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.track import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
