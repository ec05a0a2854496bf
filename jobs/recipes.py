"""Recipes: configs of whole runs by name, for `--recipe`."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from mindeye_dist.config import (
    CheckpointConfig,
    ComputeConfig,
    ComputedConfig,
    DataConfig,
    ExperimentConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
)
from mindeye_dist.errors import InputError
from mindeye_dist.model_config import (
    BackboneConfig,
    LowLevelConfig,
    ModelConfig,
    PriorConfig,
    ProjectorConfig,
)
from mindeye_dist.strict import paths


def demo() -> ExperimentConfig:
    """Return the run of `make demo`: a small model of the same code, for two cores."""
    return ExperimentConfig(
        model=ModelConfig(
            # A thousand steps are too few to overfit: more dropout slows them down.
            backbone=BackboneConfig(hidden=512, input_dropout=0.1, block_dropout=0.0),
            projector=ProjectorConfig(hidden=256),
            # 40 steps are drawn 2.5 times as fast as the published 100.
            prior=PriorConfig(depth=1, heads=4, head_dim=32, feedforward_factor=2, timesteps=40),
        ),
        # Large steps: the prior is slow to learn to use its condition.
        optimizer=OptimizerConfig(max_lr=4e-3),
        training=TrainingConfig(epochs=32, global_batch_size=32, validate_every_epochs=4),
        checkpoint=CheckpointConfig(every_steps=300),
        # One process with both cores takes 2.5 times the steps of two processes with one each.
        compute=ComputeConfig(cpus_per_worker=2.0),
    )


def demo_sweep() -> ExperimentConfig:
    """Return the run that `jobs/tune.py` sweeps: the demo's, half as wide, shorter, one core."""
    config = demo()
    backbone = replace(config.model.backbone, hidden=config.model.backbone.hidden // 2)
    return replace(
        config,
        run_dir="runs/demo-sweep",
        model=replace(config.model, backbone=backbone),
        training=replace(config.training, epochs=6, validate_every_epochs=1),
        optimizer=replace(config.optimizer, warmup_epochs=1.0),
        compute=ComputeConfig(),
    )


def demo_lowlevel() -> ExperimentConfig:
    """Return the low-level run of `make demo`, on the same subject."""
    return replace(
        demo(),
        run_dir="runs/demo-lowlevel",
        pipeline="lowlevel",
        model=ModelConfig(
            lowlevel=LowLevelConfig(
                hidden=256,
                num_blocks=2,
                input_dropout=0.3,
                map_channels=32,
                upsampler_channels=(8, 16, 32),
                head_hidden=64,
            )
        ),
        # Large enough for the latents to outweigh the contrastive loss, as in the published run.
        loss=LossConfig(latent_weight=5.0),
        optimizer=OptimizerConfig(max_lr=3e-3),
        training=TrainingConfig(epochs=6, global_batch_size=20, validate_every_epochs=1),
    )


def mindeye1(subject: str) -> ExperimentConfig:
    """Return the published high-level pipeline for a subject of NSD (Scotti et al. 2023, 3.3).

    Every number is the published one. Faults of the released trainer are not copied: docs/nsd.md
    lists them. Precision is bf16, published fp16.
    """
    return ExperimentConfig(
        run_dir=f"runs/mindeye1-{subject}",
        data=DataConfig(
            url="data/nsd",
            subject=subject,
            targets="clip-vit-l-14-release4",
            computed=ComputedConfig(variants=4),
            repeat_draw="cycle",
        ),
        training=TrainingConfig(validate_every_epochs=1),
        compute=ComputeConfig(backend="deepspeed", precision="bf16"),
    )


def mindeye1_lowlevel(subject: str) -> ExperimentConfig:
    """Return the published low-level pipeline for a subject of NSD (Scotti et al. 2023, 3.4)."""
    return ExperimentConfig(
        run_dir=f"runs/mindeye1-{subject}-lowlevel",
        pipeline="lowlevel",
        data=DataConfig(
            url="data/nsd", subject=subject, latents="autoencoder-kl", teacher="convnext-lowlevel4"
        ),
        optimizer=OptimizerConfig(max_lr=5e-4),
        training=TrainingConfig(seed=0, epochs=120, global_batch_size=8, validate_every_epochs=1),
        compute=ComputeConfig(backend="deepspeed"),
    )


PUBLISHED_SUBJECTS = ("subj01", "subj02", "subj05", "subj07")
"""NSD subjects that completed all sessions; the paper decodes these."""

RECIPES: dict[str, Callable[[], ExperimentConfig]] = {
    "demo": demo,
    "demo-lowlevel": demo_lowlevel,
    "demo-sweep": demo_sweep,
    **{f"mindeye1-{s}": partial(mindeye1, s) for s in PUBLISHED_SUBJECTS},
    **{f"mindeye1-{s}-lowlevel": partial(mindeye1_lowlevel, s) for s in PUBLISHED_SUBJECTS},
}


def recipe(name: str) -> ExperimentConfig:
    """Return a recipe's config.

    Raises:
        InputError: there is no such recipe; the message lists all.
    """
    if name not in RECIPES:
        raise InputError(f"--recipe: got {name!r}, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def recipe_flag(arguments: Sequence[str], default: str) -> str:
    """Return the value of --recipe, read before the other flags, whose defaults depend on it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default=default)
    name: str = parser.parse_known_args(arguments)[0].recipe
    return name


def config_flags(name: str, config: ExperimentConfig) -> list[str]:
    """Return the flags that turn a recipe into a config."""
    base = paths(recipe(name))
    return [
        text
        for path, value in paths(config).items()
        if value != base[path]
        for text in (
            f"--{path.replace('_', '-')}",
            *(str(item) for item in (value if isinstance(value, tuple) else (value,))),
        )
    ]
