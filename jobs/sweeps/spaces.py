"""Search spaces: flat dicts from a setting's dotted path to the domain of its values.

Named spaces are functions of the run that a sweep starts from, so that they fit the demo and the
published model alike. A user's own space is a JSON file:
{"optimizer.max_lr": {"log_uniform": [1e-4, 1e-2]}}.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.errors import InputError
from mindeye_dist.models.build import build_model
from mindeye_dist.shapes import Shapes
from mindeye_dist.strict import override

Kind = Literal["uniform", "log_uniform", "integer", "choice"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FIXED_SECTIONS = ("run_dir", "pipeline", "data.", "checkpoint.", "compute.", "tracking.")
FIXED_SETTINGS = ("training.epochs", "training.validate_every_epochs", "training.seed")
SAMPLES = 64
"""Random trials of a space that are checked before a sweep starts."""


@dataclass(frozen=True)
class Domain:
    """Domain of one setting's values.

    Attributes:
        kind: `uniform`, `log_uniform` or `integer` between two ends, both included; or `choice`.
        values: the two ends, or the choices.
    """

    kind: Kind
    values: tuple[Any, ...]

    def draw(self, generator: random.Random) -> Any:
        """Draw one value."""
        if self.kind == "choice":
            return generator.choice(self.values)
        low, high = self.values
        if self.kind == "integer":
            return generator.randint(low, high)
        if self.kind == "log_uniform":
            return float(low * (high / low) ** generator.random())
        return generator.uniform(low, high)


Space = dict[str, Domain]


def schedule(config: ExperimentConfig) -> Space:
    """Return the space of the loss schedule: switch from BiMixCo to SoftCLIP, mixing, weights.

    A loss whose weight in the run is 0 is not swept.
    """
    loss = config.loss
    weights = {"loss.prior_weight": log_range(loss.prior_weight, 10)} if loss.prior_weight else {}
    return {
        "loss.mixco_fraction": Domain("uniform", (0.0, 0.66)),
        "loss.mixco_temperature": log_range(loss.mixco_temperature, 8),
        "loss.soft_temperature_start": log_range(loss.soft_temperature_start, 8),
        "loss.soft_temperature_end": log_range(loss.soft_temperature_end, 8),
        "loss.mix_alpha": log_range(loss.mix_alpha, 4),
        **weights,
    }


def size(config: ExperimentConfig) -> Space:
    """Return the space of the model's sizes: half, once and twice the run's own."""
    model = config.model
    return {
        "model.backbone.hidden": halved_to_doubled(model.backbone.hidden),
        "model.backbone.num_blocks": halved_to_doubled(model.backbone.num_blocks),
        "model.projector.hidden": halved_to_doubled(model.projector.hidden),
        "model.prior.depth": halved_to_doubled(model.prior.depth),
    }


def optim(config: ExperimentConfig) -> Space:
    """Return the space of learning rate, weight decay (unless the run's is 0) and dropout."""
    decay = config.optimizer.weight_decay
    return {
        "optimizer.max_lr": log_range(config.optimizer.max_lr, 8),
        **({"optimizer.weight_decay": log_range(decay, 10)} if decay else {}),
        "model.backbone.input_dropout": Domain("uniform", (0.0, 0.7)),
        "model.backbone.block_dropout": Domain("uniform", (0.0, 0.5)),
    }


SPACES: dict[str, Callable[[ExperimentConfig], Space]] = {
    "schedule": schedule,
    "size": size,
    "optim": optim,
}


def log_range(value: float, factor: float) -> Domain:
    """Return the log-uniform domain from value / factor to value * factor."""
    return Domain("log_uniform", (value / factor, value * factor))


def halved_to_doubled(value: int) -> Domain:
    """Return the choice of half, once and twice a size."""
    return Domain("choice", tuple(sorted({max(1, value // 2), value, 2 * value})))


def read_space(text: str, config: ExperimentConfig) -> Space:
    """Return the space of the flag --space: names joined by +, or a JSON file.

    Raises:
        InputError: a name is unknown, or the file cannot be read or holds no space.
    """
    if text.endswith(".json"):
        try:
            values = json.loads(Path(text).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"--space {text}: cannot be read: {error}") from error
        return parse_space(values, f"--space {text}")
    names = text.split("+")
    if unknown := [name for name in names if name not in SPACES]:
        raise InputError(
            f"--space: got {', '.join(unknown)}, expected some of {', '.join(SPACES)} joined by +, "
            "or a .json file"
        )
    return dict(chain.from_iterable(SPACES[name](config).items() for name in names))


def parse_space(stored: Any, source: str) -> Space:
    """Convert JSON values to a space.

    Args:
        stored: the JSON values.
        source: file or flag that they come from, for messages.

    Raises:
        InputError: a domain is invalid; the message names its path.
    """
    if not isinstance(stored, dict) or not stored:
        raise InputError(f"{source}: got {stored!r}, expected paths and their domains")
    space = {}
    for path, domain in stored.items():
        fits = isinstance(domain, dict) and len(domain) == 1 and set(domain) <= set(KINDS)
        kind, values = next(iter(domain.items())) if fits else ("", None)
        if not isinstance(values, list) or not values:
            raise InputError(
                f"{source}, {path}: got {domain!r}, expected one of {', '.join(KINDS)} with a list"
            )
        space[path] = Domain(cast(Kind, kind), tuple(values))
        _check_domain(space[path], f"{source}, {path}")
    return space


def space_values(space: Space) -> dict[str, dict[str, list[Any]]]:
    """Convert a space to JSON values, the inverse of `parse_space`."""
    return {path: {domain.kind: list(domain.values)} for path, domain in space.items()}


def check_space(space: Space, config: ExperimentConfig, shapes: Shapes) -> tuple[int, int]:
    """Check a space on its run, and return the smallest and largest models' numbers of weights.

    Checked are all ends and choices one by one, all smallest values together, all largest values
    together, and SAMPLES random trials.

    Raises:
        InputError: a path is unknown or must not be swept, a value has another type or is out of
            range, or a model cannot be built.
    """
    for path, domain in space.items():
        if path.startswith(FIXED_SECTIONS) or path in FIXED_SETTINGS:
            raise InputError(f"{path}: cannot be swept; set it by its flag")
        for value in domain.values:
            override(config, {path: value})
    generator = random.Random(0)
    trials: list[dict[str, Any]] = [
        {path: end(domain.values) for path, domain in space.items()} for end in (min, max)
    ]
    trials += [draw(space, generator) for _ in range(SAMPLES)]
    counts = [count_weights(trial_config(config, trial), shapes) for trial in trials]
    return min(counts), max(counts)


def draw(space: Space, generator: random.Random) -> dict[str, Any]:
    """Draw a value for each path."""
    return {path: domain.draw(generator) for path, domain in space.items()}


def trial_config(config: ExperimentConfig, params: Mapping[str, Any]) -> ExperimentConfig:
    """Return a trial's config.

    Raises:
        InputError: the values do not go together; the message names them.
    """
    try:
        return override(config, params)
    except ValueError as error:
        raise InputError(f"{error} (of {dict(params)})") from error


def count_weights(config: ExperimentConfig, shapes: Shapes) -> int:
    """Return the number of a model's weights, without memory for them.

    Raises:
        InputError: the model cannot be built.
    """
    try:
        with torch.device("meta"):
            model = build_model(config, shapes)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"a model of {config.model} cannot be built: {error}") from error
    return sum(weight.numel() for weight in model.parameters())


def _check_domain(domain: Domain, source: str) -> None:
    if domain.kind == "choice":
        return
    numbers = int if domain.kind == "integer" else (int, float)
    fits = len(domain.values) == 2 and all(
        isinstance(value, numbers) and not isinstance(value, bool) for value in domain.values
    )
    if not fits or domain.values[0] >= domain.values[1]:
        expected = "whole numbers" if domain.kind == "integer" else "numbers"
        raise InputError(
            f"{source}: got {list(domain.values)!r}, expected two {expected}, the smaller first"
        )
    if domain.kind == "log_uniform" and domain.values[0] <= 0:
        raise InputError(f"{source}: got {list(domain.values)!r}, expected numbers above 0")
