"""Train on a Ray cluster: `python jobs/train.py [--recipe NAME] [--data.url URL] ...`.

Without arguments it trains the demo, and simulates its subject first if there is no data. Every
setting of mindeye_dist/config.py is a flag.
"""

import sys

import tyro

from jobs.command import clear_errors, say
from jobs.options.train import Train
from jobs.recipes import recipe, recipe_flag


def parse(arguments: list[str]) -> Train:
    """Return the options of a command line."""
    name = recipe_flag(arguments, Train.recipe)
    return tyro.cli(
        Train,
        default=Train(recipe=name, config=recipe(name)),
        args=arguments,
        description=__doc__,
    )


def main(arguments: list[str]) -> None:
    """Check what can be checked at once, and train."""
    with clear_errors():
        options = parse(arguments)
        say(f"recipe {options.recipe}, run folder {options.config.run_dir}: loading PyTorch")
        from jobs.work.train import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
