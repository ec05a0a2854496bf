"""Shapes: facts of the data that determine a model's layers, kept in every checkpoint."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["clip_tokens", "latents", "feature_map"]
"""Kind of target: clip_tokens (tokens, dim), latents (channels, height, width) or a teacher's
feature_map (tokens, dim)."""
Augmentation = Literal["release", "development", "lowlevel"]
"""Augmentation of pictures before they are encoded: see data/augment.py."""


@dataclass(frozen=True)
class TargetShape:
    """One kind of target, and the frozen model that it is by."""

    shape: tuple[int, ...]
    encoder: str
    digest: str

    def __str__(self) -> str:
        return f"{self.encoder} {self.digest[:12] or 'of unknown digest'}"


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Voxels of the subject, and the targets of the pipeline by kind."""

    num_voxels: int
    targets: dict[str, TargetShape]
