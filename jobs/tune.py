"""Search for better settings of a run: `python jobs/tune.py [--space NAMES] [--trials N] ...`.

Without arguments it sweeps a short version of the demo. Trials are compared by their retrieval on
the val split, the mean of both directions; the test split is never read. All flags of
jobs/train.py apply to every trial. The result is report.html in the sweep's folder; the best
checkpoint is registered in MLflow.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.recipes import recipe, recipe_flag
from jobs.sweeps.options import Tune


def parse(arguments: list[str]) -> Tune:
    """Return the options of a command line."""
    name = recipe_flag(arguments, Tune.recipe)
    default = Tune(recipe=name, config=recipe(name))
    return tyro.cli(Tune, default=default, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Parse the command line, run the sweep, write its report, register the best checkpoint."""
    with clear_errors():
        options = parse(arguments)
        # After parsing: Ray, Optuna, torch and MLflow take seconds to import.
        from jobs.sweeps.plan import begin, locked, plan, resume
        from jobs.sweeps.results import conclude, open_session
        from jobs.sweeps.run import connect_apart, run_trials

        sweep = resume(arguments, options) if options.resume else plan(options)
        with locked(sweep.folder):
            connect_apart(sweep)
            sweep = sweep if options.resume else begin(sweep)
            open_session(sweep)
            run_trials(sweep)
            conclude(sweep)


if __name__ == "__main__":
    main(sys.argv[1:])
