"""Build: config and shapes -> the pipeline's model with its first weights."""

import math

import torch

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.errors import InputError
from mindeye_dist.models.lowlevel import LowLevel
from mindeye_dist.models.mindeye import MindEye
from mindeye_dist.randomness import seed_for
from mindeye_dist.shapes import Shapes


def build_model(config: ExperimentConfig, shapes: Shapes) -> MindEye | LowLevel:
    """Return the model, its weights drawn from the run's seed: the same on every rank.

    Raises:
        InputError: the targets' shapes do not fit the pipeline; names the target and its shape.
    """
    torch.manual_seed(seed_for(config.training.seed, "weights"))
    if config.pipeline == "highlevel":
        num_tokens, dim = _shape(shapes, "clip_tokens", 2)
        return MindEye(config.model, shapes.num_voxels, num_tokens, dim)
    channels, height, width = _shape(shapes, "latents", 3)
    num_tokens, dim = _shape(shapes, "feature_map", 2)
    model = LowLevel(config.model.lowlevel, shapes.num_voxels, (channels, height, width), dim)
    _, *sides = model.map_shape
    if num_tokens != math.prod(sides):
        raise InputError(
            f"feature_map by {shapes.targets['feature_map'].encoder}: got {num_tokens} tokens, "
            f"expected {math.prod(sides)}, as the map under latents of {height} x {width} has"
        )
    return model


def _shape(shapes: Shapes, kind: str, length: int) -> tuple[int, ...]:
    shape = shapes.targets[kind].shape
    if len(shape) != length:
        raise InputError(f"{kind}: got shape {shape}, expected {length} axes")
    return shape
