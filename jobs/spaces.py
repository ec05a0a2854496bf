"""Search spaces: flat dicts from a setting's dotted path to what may be tried.

Named spaces are functions of the run they start from, so that they fit a demo and the published
model alike; a user's own is a JSON file: {"optimizer.max_lr": {"log_uniform": [1e-4, 1e-2]}}.
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
from mindeye_dist.models.build import build_model
from mindeye_dist.shapes import Shapes
from mindeye_dist.strict import override

Kind = Literal["uniform", "log_uniform", "integer", "choice"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NOT_SWEPT = ("run_dir", "pipeline", "data.", "checkpoint.", "compute.", "tracking.")
LENGTH = ("training.epochs", "training.validate_every_epochs", "training.seed")
SAMPLES = 64


@dataclass(frozen=True)
class Domain:
    """What may be tried for one setting.

    Attributes:
        kind: `uniform`, `log_uniform` and `integer` (both ends count) take two ends; `choice` any
            values.
        values: ends or choices.
    """

    kind: Kind
    values: tuple[Any, ...]

    def nearest(self, value: Any) -> Any:
        """Return the value of the domain that is nearest to one outside."""
        return value if self.kind == "choice" else min(max(value, self.values[0]), self.values[1])

    def draw(self, generator: random.Random) -> Any:
        """Return one value."""
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
    """Return what says when and how BiMixCo gives way to SoftCLIP, and what the losses weigh.

    What the run leaves out, with a weight of 0, is left out here.
    """
    loss = config.loss
    weights = {"loss.prior_weight": around(loss.prior_weight, 10)} if loss.prior_weight else {}
    return {
        "loss.mixco_fraction": Domain("uniform", (0.0, 0.66)),
        "loss.mixco_temperature": around(loss.mixco_temperature, 8),
        "loss.soft_temperature_start": around(loss.soft_temperature_start, 8),
        "loss.soft_temperature_end": around(loss.soft_temperature_end, 8),
        "loss.mix_alpha": around(loss.mix_alpha, 4),
        **weights,
    }


def size(config: ExperimentConfig) -> Space:
    """Return the model's sizes: half, once and twice the run's own."""
    model = config.model
    return {
        "model.backbone.hidden": scaled(model.backbone.hidden),
        "model.backbone.num_blocks": scaled(model.backbone.num_blocks),
        "model.projector.hidden": scaled(model.projector.hidden),
        "model.prior.depth": scaled(model.prior.depth),
    }


def optim(config: ExperimentConfig) -> Space:
    """Return the optimizer's settings, and dropout; without weight decay where the run has none."""
    decay = config.optimizer.weight_decay
    return {
        "optimizer.max_lr": around(config.optimizer.max_lr, 8),
        **({"optimizer.weight_decay": around(decay, 10)} if decay else {}),
        "model.backbone.input_dropout": Domain("uniform", (0.0, 0.7)),
        "model.backbone.block_dropout": Domain("uniform", (0.0, 0.5)),
    }


SPACES: dict[str, Callable[[ExperimentConfig], Space]] = {
    "schedule": schedule,
    "size": size,
    "optim": optim,
}


def around(value: float, factor: float) -> Domain:
    """Return the values up to `factor` times smaller and larger, by their logarithm."""
    return Domain("log_uniform", (value / factor, value * factor))


def scaled(value: int) -> Domain:
    """Return half, once and twice a size."""
    return Domain("choice", tuple(sorted({max(1, value // 2), value, 2 * value})))


def read_space(text: str, config: ExperimentConfig) -> Space:
    """Return the space that --space means: names joined by +, or a JSON file.

    Raises:
        ValueError: there is no such name or file, or it is no space.
    """
    if text.endswith(".json"):
        try:
            given = json.loads(Path(text).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"--space {text}: cannot be read: {error}") from error
        return parse_space(given, f"--space {text}")
    names = text.split("+")
    if unknown := [name for name in names if name not in SPACES]:
        raise ValueError(
            f"--space: got {', '.join(unknown)}, expected some of {', '.join(SPACES)} joined by +, "
            "or a .json file"
        )
    return dict(chain.from_iterable(SPACES[name](config).items() for name in names))


def parse_space(given: Any, where: str) -> Space:
    """Return the space that JSON values describe.

    Raises:
        ValueError: they describe none; names the path.
    """
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{where}: got {given!r}, expected paths and their domains")
    space = {}
    for path, domain in given.items():
        fits = isinstance(domain, dict) and len(domain) == 1 and set(domain) <= set(KINDS)
        kind, values = next(iter(domain.items())) if fits else ("", None)
        if not isinstance(values, list) or not values:
            raise ValueError(
                f"{where}, {path}: got {domain!r}, expected one of {', '.join(KINDS)} with a list"
            )
        space[path] = Domain(cast(Kind, kind), tuple(values))
        _check_domain(space[path], f"{where}, {path}")
    return space


def space_values(space: Space) -> dict[str, dict[str, list[Any]]]:
    """Return a space as `parse_space` reads it."""
    return {path: {domain.kind: list(domain.values)} for path, domain in space.items()}


def check_space(space: Space, config: ExperimentConfig, shapes: Shapes) -> tuple[int, int]:
    """See that every value of a space gives a run, and return its models' fewest and most weights.

    Ends and choices are tried one by one, then the smallest and largest of all together, and some
    draws.

    Raises:
        ValueError: a path that no config has or that must not be swept, a value of another type or
            out of range, or a model that cannot be built.
    """
    for path, domain in space.items():
        if path.startswith(NOT_SWEPT) or path in LENGTH:
            raise ValueError(f"{path}: cannot be swept; give it as a flag")
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
    """Return a value for each path."""
    return {path: domain.draw(generator) for path, domain in space.items()}


def trial_config(config: ExperimentConfig, params: Mapping[str, Any]) -> ExperimentConfig:
    """Return a trial's run.

    Raises:
        ValueError: these values do not go together; names them.
    """
    try:
        return override(config, params)
    except ValueError as error:
        raise ValueError(f"{error} (of {dict(params)})") from error


def count_weights(config: ExperimentConfig, shapes: Shapes) -> int:
    """Return the number of a model's weights, none of which is made.

    Raises:
        ValueError: it cannot be built.
    """
    try:
        with torch.device("meta"):
            model = build_model(config, shapes)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"a model of {config.model} cannot be built: {error}") from error
    return sum(weight.numel() for weight in model.parameters())


def _check_domain(domain: Domain, where: str) -> None:
    if domain.kind == "choice":
        return
    numbers = int if domain.kind == "integer" else (int, float)
    fits = len(domain.values) == 2 and all(
        isinstance(value, numbers) and not isinstance(value, bool) for value in domain.values
    )
    if not fits or domain.values[0] >= domain.values[1]:
        what = "whole numbers" if domain.kind == "integer" else "numbers"
        raise ValueError(
            f"{where}: got {list(domain.values)!r}, expected two {what}, the smaller first"
        )
    if domain.kind == "log_uniform" and domain.values[0] <= 0:
        raise ValueError(f"{where}: got {list(domain.values)!r}, expected numbers above 0")
