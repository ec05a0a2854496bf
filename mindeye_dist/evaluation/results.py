"""Results of an evaluation, as the reports read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mindeye_dist.errors import InputError


@dataclass(frozen=True)
class PictureExample:
    """One reconstruction and what it was chosen from.

    Attributes:
        number: place in the test split.
        seen: encoded picture that the brain saw.
        lowlevel: blurry picture that drawing started from; None without one.
        candidates: drawn pictures.
        scores: cosine of each candidate's tokens with the projector's output.
        chosen: the candidate that is the reconstruction.
        score: what the page is sorted by, higher is better.
        caption: of the seen picture; empty where none is known.
        truths: true value and the one read from the reconstruction, by factor; may be empty.

    Raises:
        InputError: a score that is not finite, or no candidate of that number.
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
class Reconstructed:
    """The reconstructions' part of an evaluation.

    Attributes:
        report: JSON-able: generator, encoder (that chose), candidates, strength, seeds, pool, of,
            sorted_by, metrics (label, chance, perfect, better, gap by key), rows (label, note,
            scores by name), factors (chance, rows, ceiling; empty where the truth is unknown).
        examples: in any order.
    """

    report: dict[str, Any]
    examples: Sequence[PictureExample]


@dataclass(frozen=True)
class Example:
    """One retrieval: a query of the test pool and the pool's best matches for it, best first.

    Attributes:
        query: number of the sample whose brain (or image) asks.
        matches: numbers of the samples whose images (or brains) answer.
        rank: place of the true match, 1 is best.
    """

    query: int
    matches: tuple[int, ...]
    rank: int


@dataclass(frozen=True)
class LowLevel:
    """The low-level pipeline's part of an evaluation.

    Attributes:
        report: JSON-able.
        examples: encoded picture that was seen, predicted picture, and what perfect latents give;
            the latter with values in [0, 1].
    """

    report: dict[str, Any]
    examples: Sequence[
        tuple[bytes, Float[np.ndarray, "3 height width"], Float[np.ndarray, "3 height width"]]
    ]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gives: the report and what its page shows.

    Attributes:
        report: JSON-able; without "retrieval" where a low-level checkpoint stands alone.
        examples: by direction; empty without retrieval.
        pictures: encoded pictures of the samples that the examples name.
        lowlevel: of the low-level pipeline, where there is one.
        reconstructed: pictures drawn from the brain and their scores, where they were made.
    """

    report: dict[str, Any]
    examples: dict[str, list[Example]]
    pictures: dict[int, bytes]
    lowlevel: LowLevel | None = None
    reconstructed: Reconstructed | None = None
