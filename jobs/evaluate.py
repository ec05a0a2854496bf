"""Evaluate a run: `python jobs/evaluate.py [--run-dir runs/demo]` -> report.json, report.html.

Scores retrieval on the test split beside chance, ridge, shuffled brains and, for a simulated
subject, the ceiling; the low-level pictures, if there is a low-level run; and pictures drawn by a
generator that takes the checkpoint's tokens, beside their controls.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.evaluate import Evaluate


def parse(arguments: list[str]) -> Evaluate:
    """Return the options of a command line."""
    return tyro.cli(Evaluate, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Evaluate a checkpoint, write the report and print its main scores."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.evaluate import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
