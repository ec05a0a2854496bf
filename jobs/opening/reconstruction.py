"""Open the models of a reconstruction: both pipelines' checkpoints, encoder and generator.

In: `DrawOptions`. Out: a `Reconstructor`, from voxels to pictures. Paths of the checkpoints are
found first, once, so that all workers open the same ones.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from jobs.opening.checkpoints import (
    checkpoint_encoder,
    chosen_checkpoint,
    data_store,
    open_latent_codec,
    open_lowlevel_run,
)
from jobs.opening.generators import open_generator
from jobs.options.reconstruction import DrawOptions
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.decoding.reconstructor import LowLevelPipeline, Reconstructor, check_lowlevel


@dataclass(frozen=True)
class CheckpointPaths:
    """Folders of a reconstruction's checkpoints; `lowlevel` is empty without a low-level run."""

    checkpoint: str
    lowlevel: str


def find_checkpoint_paths(options: DrawOptions) -> CheckpointPaths:
    """Return the folders of the chosen checkpoint and of the low-level one beside it.

    Raises:
        CheckpointError: the run has no good checkpoint.
        DataError: the low-level run cannot be opened, or does not fit.
    """
    path, run_dir = chosen_checkpoint(options)
    predictor = Predictor(path)

    def fitting(own: Predictor) -> str:
        check_lowlevel(predictor, LowLevelPipeline(own, open_latent_codec(options, own)))
        return str(own.path)

    lowlevel = open_lowlevel_run(options, predictor, run_dir, fitting, drawn_over=True)
    return CheckpointPaths(str(path), lowlevel or "")


def open_reconstructor(options: DrawOptions, paths: CheckpointPaths) -> Reconstructor:
    """Return the models of a reconstruction, on the options' device.

    Raises:
        DataError: checkpoints, encoder and generator do not fit together.
        InputError: weights are missing or do not fit.
    """
    config = options.reconstruction
    predictor = Predictor(Path(paths.checkpoint), options.device, config.batch_size)
    lowlevel = None
    if paths.lowlevel:
        own = Predictor(Path(paths.lowlevel), options.device, config.batch_size)
        lowlevel = LowLevelPipeline(own, open_latent_codec(options, own))
    encoder = checkpoint_encoder(
        predictor,
        data_store(options, predictor),
        options.device,
        weights=options.encoder_weights,
        antialias=options.encoder_antialias,
    )
    generator = open_generator(replace(options.draw, device=options.device))
    return Reconstructor(predictor, generator, encoder, config, lowlevel)
