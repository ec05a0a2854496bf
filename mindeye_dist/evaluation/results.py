"""Results of an evaluation: the interface between evaluation and reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mindeye_dist.errors import InputError


@dataclass(frozen=True)
class PictureExample:
    """One brain's reconstruction, with all its candidates.

    Attributes:
        number: index of the sample in the test split.
        seen: encoded seen picture.
        lowlevel: blurry picture that generation started from; None without one.
        candidates: generated pictures.
        scores: cosine of each candidate's clip_tokens with the projector's output.
        chosen: index of the candidate that is the reconstruction.
        score: score that the page sorts by; higher is better.
        caption: caption of the seen picture; empty if unknown.
        truths: true label, and label read from the reconstruction, by factor; empty if unknown.

    Raises:
        InputError: a score is not finite, or `chosen` is not the index of a candidate.
    """

    number: int
    seen: bytes
    lowlevel: UInt8[np.ndarray, "rows columns 3"] | None
    candidates: UInt8[np.ndarray, "candidates height width 3"]
    scores: Float[np.ndarray, " candidates"]
    chosen: int
    score: float
    caption: str
    truths: dict[str, tuple[str, str]]

    def __post_init__(self) -> None:
        name = f"picture {self.number}"
        if len(self.scores) != len(self.candidates) or not 0 <= self.chosen < len(self.scores):
            raise InputError(
                f"{name}: got candidate {self.chosen} as chosen and {len(self.scores)} scores for "
                f"{len(self.candidates)} candidates"
            )
        if not np.isfinite([self.score, *self.scores]).all():
            raise InputError(f"{name}: got a score that is not finite")


@dataclass(frozen=True)
class ReconstructionResult:
    """Scores and examples of reconstructed pictures.

    Attributes:
        report: JSON-able scores: generator, encoder (of the candidates), candidates, strength,
            seeds, pool (pictures scored), of (pictures in the split), sorted_by, metrics (label,
            chance, perfect, better, gap by key), rows (label, note, scores by name), factors
            (chance, rows, ceiling; empty if the scenes' factors are unknown).
        examples: reconstructions, in any order.
    """

    report: dict[str, Any]
    examples: Sequence[PictureExample]


@dataclass(frozen=True)
class RetrievalExample:
    """One query against the test pool.

    Attributes:
        query: index of the sample whose brain (or image) is the query.
        matches: indices of the samples whose images (or brains) match best, best first.
        rank: rank of the true match; 1 is best.
    """

    query: int
    matches: tuple[int, ...]
    rank: int


@dataclass(frozen=True)
class LowLevelResult:
    """Scores and examples of the low-level pipeline's blurry pictures.

    Attributes:
        report: JSON-able scores.
        examples: triples of the encoded seen picture, the predicted picture and the decoded true
            latents; the last two with values in [0, 1].
    """

    report: dict[str, Any]
    examples: Sequence[
        tuple[bytes, Float[np.ndarray, "3 height width"], Float[np.ndarray, "3 height width"]]
    ]


@dataclass(frozen=True)
class Evaluation:
    """Scores of a checkpoint, and the examples that its page shows.

    Attributes:
        report: JSON-able scores; without "retrieval" for a low-level checkpoint alone.
        examples: retrieval examples by direction; empty without retrieval.
        pictures: encoded pictures of the samples in `examples`, by their index.
        lowlevel: result of the low-level pipeline; None without one.
        reconstructions: result of the reconstructed pictures; None without a generator.
    """

    report: dict[str, Any]
    examples: dict[str, list[RetrievalExample]]
    pictures: dict[int, bytes]
    lowlevel: LowLevelResult | None = None
    reconstructions: ReconstructionResult | None = None
