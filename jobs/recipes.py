"""Whole runs, by name: functions that return an ExperimentConfig."""

from collections.abc import Callable

from mindeye_dist.config import (
    BackboneConfig,
    CheckpointConfig,
    ComputeConfig,
    ExperimentConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PriorConfig,
    ProjectorConfig,
    TrainingConfig,
)


def demo() -> ExperimentConfig:
    """Return the run of `make demo`: a small model of the same code on two DeepSpeed workers."""
    return ExperimentConfig(
        model=ModelConfig(
            backbone=BackboneConfig(hidden=512, input_dropout=0.3),
            projector=ProjectorConfig(hidden=256),
            prior=PriorConfig(depth=2, heads=4, head_dim=32, feedforward_factor=2),
        ),
        # The published 30 is for CLIP's tokens; these have about ten times their squared error.
        loss=LossConfig(prior_weight=3.0),
        optimizer=OptimizerConfig(max_lr=1e-3),
        training=TrainingConfig(epochs=20, global_batch_size=100, validate_every_epochs=4),
        checkpoint=CheckpointConfig(every_steps=150),
        compute=ComputeConfig(num_workers=2, backend="deepspeed", zero_stage=2),
    )


def mindeye1_subj01() -> ExperimentConfig:
    """Return the published high-level pipeline (Scotti et al. 2023) for NSD's subject 1."""
    return ExperimentConfig(run_dir="runs/mindeye1-subj01")


RECIPES: dict[str, Callable[[], ExperimentConfig]] = {
    "demo": demo,
    "mindeye1-subj01": mindeye1_subj01,
}


def recipe(name: str) -> ExperimentConfig:
    """Return a recipe's config.

    Raises:
        ValueError: there is no such recipe; the message lists those there are.
    """
    if name not in RECIPES:
        raise ValueError(f"--recipe: got {name!r}, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()
