"""Drawer: voxels of a batch of brains -> drawn pictures, and one chosen for each brain."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jobs.opening.reconstruction import CheckpointPaths, find_checkpoint_paths, open_reconstructor
from mindeye_dist.decoding.reconstructor import NotFiniteError
from serve.bodies import RefusedError, Row
from serve.retriever import DIGEST_DIGITS, encode_data_url, refuse_wrong_size
from serve.schema import Candidate, PictureFormat, Reconstruction
from serve.settings import Service


class Drawer:
    """Draws pictures with a checkpoint, its low-level pipeline and a generator.

    Args:
        settings: settings of the service.
        path: folder of the checkpoint.
        version: version string for answers.
        device: torch device to compute on.

    Raises:
        CheckpointError: the checkpoint is not whole.
        DataError: checkpoint, low-level checkpoint and generator do not fit together.
        InputError: weights are missing or do not fit.
    """

    def __init__(self, settings: Service, path: Path, version: str, device: Any) -> None:
        self.version = version
        own = replace(
            settings,
            checkpoint=str(path),
            device=device,
            draw=replace(settings.draw, device=device),
        )
        lowlevel = find_checkpoint_paths(
            replace(own, device="cpu", draw=replace(own.draw, device="cpu"))
        ).lowlevel
        self._reconstructor = open_reconstructor(own, CheckpointPaths(str(path), lowlevel))
        self.generator = self._reconstructor.generator.name
        self.max_candidates = settings.reconstruction.candidates

    def reconstruct(
        self, requests: Sequence[tuple[Row, int, PictureFormat]]
    ) -> list[Reconstruction | RefusedError]:
        """Return the candidates and the chosen one for each (voxels, candidates, format) request.

        0 candidates draw `max_candidates`. A request that cannot be answered gets a RefusedError
        in its place.
        """
        answers: dict[int, Reconstruction | RefusedError] = {}
        expected = self._reconstructor.predictor.num_voxels
        groups: dict[int, list[int]] = {}
        for number, (row, candidates, _) in enumerate(requests):
            if len(row) != expected:
                answers[number] = refuse_wrong_size(len(row), expected)
            elif candidates > self.max_candidates:
                most = self.max_candidates
                answers[number] = RefusedError(
                    422, f"candidates: got {candidates}, expected at most {most}"
                )
            else:
                groups.setdefault(candidates or self.max_candidates, []).append(number)
        for candidates, numbers in groups.items():
            drawn = self._draw(candidates, [requests[number] for number in numbers])
            answers |= dict(zip(numbers, drawn, strict=True))
        return [answers[number] for number in range(len(requests))]

    def _draw(
        self, candidates: int, requests: Sequence[tuple[Row, int, PictureFormat]]
    ) -> list[Reconstruction | RefusedError]:
        config = replace(self._reconstructor.config, candidates=candidates)
        reconstructor = replace(self._reconstructor, config=config)
        # Noise is seeded by the responses: equal responses give equal pictures.
        keys = [hashlib.sha256(row.tobytes()).hexdigest()[:DIGEST_DIGITS] for row, _, _ in requests]
        try:
            made = reconstructor(np.stack([row for row, _, _ in requests]), keys)
        except NotFiniteError:
            if len(requests) == 1:
                return [RefusedError(422, "voxels: the pictures drawn from them are not finite")]
            return [self._draw(candidates, [request])[0] for request in requests]
        return [
            Reconstruction(
                model=self.version,
                chosen=int(made.chosen[brain]),
                candidates=[
                    Candidate(similarity=score, picture=encode_data_url(picture, form))
                    for score, picture in zip(
                        made.scores[brain].tolist(), made.candidates[brain], strict=True
                    )
                ],
                lowlevel=""
                if made.lowlevel is None
                else encode_data_url(made.lowlevel[brain], form),
            )
            for brain, (_, _, form) in enumerate(requests)
        ]
