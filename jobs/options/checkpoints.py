"""Runs: the checkpoint that is meant, the low-level one beside it, and the data of either."""

from dataclasses import dataclass
from typing import Literal

from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Which checkpoint, its data, and where it computes."""

    run_dir: str = "runs/demo"
    """Run whose checkpoint of the best validation is taken."""
    checkpoint: str = ""
    """Folder or s3:// prefix of one checkpoint, instead of the run's best; or models:/NAME@ALIAS in
    MLflow."""
    mlflow: str = ""
    """Tracking server of models:/; by default MLFLOW_TRACKING_URI, or else runs/mlflow.db."""
    data_url: str = ""
    """Where the shards are, if not where the checkpoint's config says."""
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True, kw_only=True)
class RunOptions(CheckpointOptions):
    """The same, the low-level run beside it, and what made its latents."""

    lowlevel_run_dir: str = ""
    """Run of the low-level pipeline, or s3:// prefix or models:/NAME@ALIAS of its checkpoint; by
    default RUN_DIR-lowlevel, where there is one."""
    no_lowlevel: bool = False
    """Leave the low-level run out, even where there is one; pictures are drawn from noise alone."""
    codec: str = ""
    """What made the latents, where it needs weights: a folder or hub name of a VAE, or a folder
    with TAEF2."""
    codec_subfolder: str = ""
    """Where in --codec the VAE is (`vae` in a whole pipeline)."""
    encoder_weights: str = ""
    """CLIP's, where candidates are encoded by it: as --weights of jobs/embed.py."""
    encoder_antialias: bool = False
    """CLIP's preprocessing: as --antialias of jobs/embed.py."""

    def __post_init__(self) -> None:
        named, fits = self.lowlevel_run_dir, not (self.no_lowlevel and self.lowlevel_run_dir)
        check(fits, "lowlevel_run_dir", named, "none, beside --no-lowlevel")
