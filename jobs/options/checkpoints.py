"""Flags that choose a checkpoint, the low-level checkpoint beside it, and their data."""

from dataclasses import dataclass
from typing import Literal

from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """A checkpoint, its data and its device."""

    run_dir: str = "runs/demo"
    """Folder of a run, whose checkpoint with the best validation score is taken."""
    checkpoint: str = ""
    """Checkpoint, instead of the run's best: a folder, an s3:// prefix, or models:/NAME@ALIAS in
    MLflow's registry."""
    mlflow: str = ""
    """URL of the tracking server of models:/; by default MLFLOW_TRACKING_URI, or else
    runs/mlflow.db."""
    data_url: str = ""
    """Folder or s3:// prefix of the shards; by default that of the checkpoint's config."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of the models."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(CheckpointOptions):
    """A checkpoint, the low-level run beside it, and the codec of its latents."""

    lowlevel_run_dir: str = ""
    """Folder of the low-level run, or s3:// prefix or models:/NAME@ALIAS of its checkpoint; by
    default RUN_DIR-lowlevel, if that exists."""
    no_lowlevel: bool = False
    """Ignore the low-level run; pictures are drawn from noise alone."""
    codec: str = ""
    """Weights of the codec that made the latents, if it has any: a folder or hub name of a VAE, or
    a folder with TAEF2."""
    codec_subfolder: str = ""
    """Subfolder of --codec with the VAE (`vae` in a whole pipeline)."""
    encoder_weights: str = ""
    """Weights of CLIP, if CLIP encodes the candidates: as --weights of jobs/embed.py."""
    encoder_antialias: bool = False
    """Antialiasing in CLIP's preprocessing: as --antialias of jobs/embed.py."""

    def __post_init__(self) -> None:
        named, fits = self.lowlevel_run_dir, not (self.no_lowlevel and self.lowlevel_run_dir)
        check(fits, "lowlevel_run_dir", named, "none, beside --no-lowlevel")
