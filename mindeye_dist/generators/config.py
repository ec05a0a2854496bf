"""Settings of image generators, in plain Python: sizes, training and precision."""

import math
from dataclasses import dataclass
from typing import Literal

from mindeye_dist.strict import check

Precision = Literal["fp32", "bf16", "fp16"]
NORM_GROUPS = 8
"""Groups of the group norms."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Size of the small generator's network, and its sampling."""

    patch: int = 2
    """Width of the square of latents that is one token of the network."""
    width: int = 256
    depth: int = 4
    heads: int = 4
    guess_width: int = 192
    """Width of the layers that guess the picture from the tokens."""
    guess_depth: int = 3
    steps: int = 6
    """Steps of the sampler (UniPC)."""
    guidance: float = 2.5
    """Classifier-free guidance (Ho and Salimans 2022); 1 is none, and half the time."""

    def __post_init__(self) -> None:
        for name in ("patch", "width", "depth", "heads", "guess_width", "guess_depth", "steps"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        # Comparisons with NaN are false.
        check(1 <= self.guidance < math.inf, "guidance", self.guidance, "a number of at least 1")
        check(self.width % self.heads == 0, "width", self.width, f"a multiple of {self.heads}")
        check(
            self.guess_width % NORM_GROUPS == 0,
            "guess_width",
            self.guess_width,
            f"a multiple of {NORM_GROUPS}",
        )


@dataclass(frozen=True, kw_only=True)
class Imperfection:
    """Damage to clip_tokens during a generator's training (Ho et al. 2022)."""

    dropout: float = 0.1
    """Share of samples whose tokens are dropped, as guidance needs."""
    noise: float = 0.5
    """Largest noise added to a sample's tokens, in units of their standard deviation: the prior's
    tokens are imperfect too (Ho et al. 2022, conditioning augmentation)."""

    def __post_init__(self) -> None:
        check(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more, less than 1")
        # Comparisons with NaN are false.
        check(0 <= self.noise < math.inf, "noise", self.noise, "a number of 0 or more")


@dataclass(frozen=True, kw_only=True)
class PictureTraining:
    """Schedule of a network's training on pictures."""

    epochs: int = 14
    batch_size: int = 16
    max_lr: float = 7e-4
    warmup_steps: int = 200
    weight_decay: float = 0.01
    average_decay: float = 0.998
    """Decay of the running average of the weights; the average is the result."""
    seed: int = 0
    save_every_steps: int = 250

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "save_every_steps"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
