"""Opening of the objects that the options of `jobs/options/reconstruction.py` name."""

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
    """The folders of the checkpoints that are meant; no low-level one where it is empty."""

    checkpoint: str
    lowlevel: str


def find_checkpoint_paths(options: DrawOptions) -> CheckpointPaths:
    """Return the checkpoints that are meant, the low-level one where there is one.

    Raises:
        CheckpointError: the run has no good checkpoint.
        DataError: there is a low-level run that cannot be opened.
    """
    path, run_dir = chosen_checkpoint(options)
    predictor = Predictor(path)

    def fitting(own: Predictor) -> str:
        check_lowlevel(predictor, LowLevelPipeline(own, open_latent_codec(options, own)))
        return str(own.path)

    lowlevel = open_lowlevel_run(options, predictor, run_dir, fitting, drawn_over=True)
    return CheckpointPaths(str(path), lowlevel or "")


def open_reconstructor(options: DrawOptions, found: CheckpointPaths) -> Reconstructor:
    """Return the models of a reconstruction, on the options' device.

    Raises:
        DataError: they do not belong together.
        InputError: weights are not there or do not fit.
    """
    config = options.reconstruction
    predictor = Predictor(Path(found.checkpoint), options.device, config.batch_size)
    lowlevel = None
    if found.lowlevel:
        own = Predictor(Path(found.lowlevel), options.device, config.batch_size)
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
