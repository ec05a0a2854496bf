"""Drawer: rows of voxels -> reconstructed pictures."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jobs.opening.reconstruction import Found, find, open_reconstructor
from mindeye_dist.decoding.reconstructor import NotFiniteError
from serve.bodies import RefusedError
from serve.retriever import DIGITS, Row, as_url, wrong_size
from serve.schema import Candidate, PictureFormat, Reconstruction
from serve.settings import Service


class Drawer:
    """A checkpoint, its low-level pipeline and a generator: draws pictures.

    Args:
        settings: of the service.
        path: the checkpoint's folder.
        version: what it is called in answers.
        device: where to compute.

    Raises:
        CheckpointError: the checkpoint is not whole.
        DataError: the parts do not belong together.
        InputError: weights are not there or do not fit.
    """

    def __init__(self, settings: Service, path: Path, version: str, device: Any) -> None:
        self.version = version
        own = replace(
            settings,
            checkpoint=str(path),
            device=device,
            draw=replace(settings.draw, device=device),
        )
        lowlevel = find(replace(own, device="cpu", draw=replace(own.draw, device="cpu"))).lowlevel
        self._whole = open_reconstructor(own, Found(str(path), lowlevel))
        self.generator = self._whole.generator.name
        self.max_candidates = settings.reconstruction.candidates

    def reconstruct(
        self, requests: Sequence[tuple[Row, int, PictureFormat]]
    ) -> list[Reconstruction | RefusedError]:
        """Return each row's candidates and the choice among them; 0 candidates are the most."""
        answers: dict[int, Reconstruction | RefusedError] = {}
        expected = self._whole.predictor.num_voxels
        groups: dict[int, list[int]] = {}
        for number, (row, candidates, _) in enumerate(requests):
            if len(row) != expected:
                answers[number] = wrong_size(len(row), expected)
            elif candidates > self.max_candidates:
                most = self.max_candidates
                answers[number] = RefusedError(422, f"candidates: at most {most} are drawn")
            else:
                groups.setdefault(candidates or self.max_candidates, []).append(number)
        for candidates, numbers in groups.items():
            drawn = self._draw(candidates, [requests[number] for number in numbers])
            answers |= dict(zip(numbers, drawn, strict=True))
        return [answers[number] for number in range(len(requests))]

    def _draw(
        self, candidates: int, requests: Sequence[tuple[Row, int, PictureFormat]]
    ) -> list[Reconstruction | RefusedError]:
        config = replace(self._whole.config, candidates=candidates)
        reconstructor = replace(self._whole, config=config)
        # Seeds come from the responses themselves: the same ones are drawn the same again.
        keys = [hashlib.sha256(row.tobytes()).hexdigest()[:DIGITS] for row, _, _ in requests]
        try:
            made = reconstructor(np.stack([row for row, _, _ in requests]), keys)
        except NotFiniteError:
            if len(requests) == 1:
                return [RefusedError(422, "voxels: what is drawn from them is not finite")]
            return [self._draw(candidates, [request])[0] for request in requests]
        return [
            Reconstruction(
                model=self.version,
                chosen=int(made.chosen[brain]),
                candidates=[
                    Candidate(similarity=score, picture=as_url(picture, form))
                    for score, picture in zip(
                        made.scores[brain].tolist(), made.candidates[brain], strict=True
                    )
                ],
                lowlevel="" if made.lowlevel is None else as_url(made.lowlevel[brain], form),
            )
            for brain, (_, _, form) in enumerate(requests)
        ]
