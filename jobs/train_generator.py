"""Train the project's own generator: pictures, clip_tokens -> RUN_DIR/generator.safetensors.

Without arguments it trains the generator of rendered scenes that is shipped with the project, and
the autoencoder of its latents, RUN_DIR/autoencoder.safetensors. `--data-url` takes the training
pictures of shards and their stored tokens, `--images` any folder or tar. One process, one device;
a killed training continues when started again.
"""

import sys

import tyro

from jobs.command import clear_errors
from jobs.options.train_generator import TrainGenerator


def parse(arguments: list[str]) -> TrainGenerator:
    """Return the options of a command line."""
    return tyro.cli(TrainGenerator, args=arguments, description=__doc__)


def main(arguments: list[str]) -> None:
    """Train a generator."""
    with clear_errors():
        options = parse(arguments)
        from jobs.work.train_generator import run  # after parsing: this import takes seconds

        run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
