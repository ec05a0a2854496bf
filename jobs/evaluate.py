"""Evaluate a run: `python jobs/evaluate.py [--run-dir runs/demo]` -> report.json, report.html.

Retrieval on the test split, beside chance, ridge, shuffled brains and, for a simulated subject, the
ceiling; with a low-level run beside it, its blurry pictures too. A low-level checkpoint by itself
has those alone. With a generator that takes the checkpoint's tokens, pictures are drawn and scored
beside their controls.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.evaluate import Evaluate


def parse(arguments: list[str]) -> Evaluate:
    """Return the options of a command line."""
    return tyro.cli(Evaluate, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Evaluate, write the report and print its essence."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.evaluate import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
