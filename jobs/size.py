"""What a run needs of GPUs: `python jobs/size.py --recipe mindeye1-subj01 [flags as in train.py]`.

Prints the parameters of each part, and GiB per GPU for each ZeRO stage and number of GPUs. Model
and forward pass stay on the meta device: nothing is allocated.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.size import Size
from jobs.recipes import recipe, recipe_flag


def parse(arguments: list[str]) -> Size:
    """Return the options of a command line."""
    name = recipe_flag(arguments, Size.recipe)
    default = Size(recipe=name, config=recipe(name))
    return tyro.cli(Size, default=default, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Print the tables."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.size import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
