"""What is served, opened once: a predictor with its gallery, and what draws pictures.

No Ray and no web: rows of voxels in, answers out, each with the version of the model that gave it.
Rows that cannot be answered are refused one by one; the others of their batch are answered.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from jobs.command import absolute_path
from jobs.opening.checkpoints import data_store, open_data
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.decoding.pools.faiss_pool import Pool
from mindeye_dist.decoding.pools.gallery import Gallery, Leads, Search, SplitGallery, val_leads
from mindeye_dist.decoding.predictor import Predictor, check_pipeline
from mindeye_dist.errors import UserError
from mindeye_dist.evaluation.data import EvaluationData, check_data
from mindeye_dist.pictures import decode
from mindeye_dist.runs.checkpoints import MANIFEST, file_digest, read_progress
from serve.bodies import RefusedError
from serve.schema import Gallery as GalleryCard
from serve.schema import Histogram, Lead, Match, ModelCard, PictureFormat, Retrieval, Samples
from serve.settings import Service

DIGITS = 12
BINS = 24
LONGEST_SIDE = 512
"""Pictures are sent no wider than this (pixels)."""
KEPT_PICTURES = 512
UNREADABLE = "the gallery cannot be read"
NOTES = (
    "A decoder of one brain: what it says of another brain's responses means nothing.",
    "Responses must be z-scored as those it was trained on were.",
    "Similarities are cosines, not probabilities; a best picture is found for any input.",
    "Shares of the val split hold for responses like its own: noise has a lead, too.",
)
OF_A_PERSON = "Trained on a person's brain responses: treat weights and answers as derived data."
Row = Float[np.ndarray, " voxels"]


@dataclass(frozen=True)
class Embedded:
    """An embedding and the version of the model that gave it."""

    model: str
    embedding: Float[np.ndarray, " features"]


class Decoder:
    """A checkpoint and its gallery: embeds and retrieves.

    Args:
        settings: of the service.
        path: the checkpoint's folder.
        version: what it is called in answers.
        device: where to compute.

    Raises:
        CheckpointError: the checkpoint is not whole.
        DataError: its data cannot be read, or do not fit; a low-level checkpoint.
    """

    def __init__(self, settings: Service, path: Path, version: str, device: str) -> None:
        self.version = version
        self.predictor = Predictor(path, device, settings.predictor.batch)
        check_pipeline(self.predictor, "highlevel")
        store = data_store(settings, self.predictor)
        data = open_data(self.predictor, store, read_manifest(store), "cpu")
        check_data(self.predictor, data)
        self._test: Dataset = data.splits["test"]
        val, self._gallery = data.splits["val"], _open_gallery(settings, data)
        search: Search = self._gallery.search
        if isinstance(self._gallery, Pool):
            copies = self._gallery.copies_of(val.pictures(range(len(val))))
            search = partial(self._gallery.search, excluded=copies)
        self._leads: Leads = val_leads(self.predictor, val, search)
        subject = data.manifest.subject(self.predictor.subject)
        self._simulated = bool(subject.truth)
        self._kept: dict[tuple[int, PictureFormat], str] = {}
        self._card = self._describe(settings)

    def embed(self, rows: Sequence[Row]) -> list[Embedded | RefusedError]:
        """Return each row's embedding, of unit norm."""
        return [
            each if isinstance(each, RefusedError) else Embedded(self.version, each)
            for each in self._embeddings(rows)
        ]

    def retrieve(
        self, requests: Sequence[tuple[Row, int, PictureFormat]]
    ) -> list[Retrieval | RefusedError]:
        """Return each row's k nearest pictures and its lead."""
        rows = self._embeddings([row for row, _, _ in requests])
        held = len(self._gallery)
        for number, (_, k, _) in enumerate(requests):
            if k > held and not isinstance(rows[number], RefusedError):
                rows[number] = RefusedError(422, f"k: the gallery has {held} pictures")
        found = self._search(rows, max(2, *(k for _, k, _ in requests)))
        return [
            row if isinstance(row, RefusedError) else self._retrieval(*row, k, form)
            for row, (_, k, form) in zip(found, requests, strict=True)
        ]

    def card(self, generator: str, max_candidates: int) -> ModelCard:
        """Return what is served, with what draws pictures beside it."""
        beside = {"generator": generator, "max_candidates": max_candidates}
        return self._card.model_copy(update=beside)

    def _describe(self, settings: Service) -> ModelCard:
        """Return the card, once: the checkpoint's folder may be deleted while it is served."""
        predictor, leads = self.predictor, self._leads
        where = read_progress(predictor.path)
        tokens = predictor.shapes.targets["clip_tokens"]
        return ModelCard(
            model=self.version,
            num_voxels=predictor.num_voxels,
            tokens=(int(tokens.shape[0]), int(tokens.shape[1])),
            parameters=sum(p.numel() for p in predictor.model.parameters()),
            encoder=tokens.encoder,
            steps=where.step,
            val_score=where.best_score if np.isfinite(where.best_score) else None,
            simulated=self._simulated,
            gallery=GalleryCard(
                pictures=len(self._gallery),
                val_top1=float(leads.right.mean()),
                val_leads=histogram(leads),
            ),
            generator="",
            max_candidates=0,
            max_batch=settings.limits.batch,
            notes=[*NOTES, *([] if self._simulated else [OF_A_PERSON])],
        )

    def samples(self) -> Samples:
        """Return how many responses there are to try: none of a person's, who did not agree."""
        repeats, num_voxels = self._test.voxel_shape
        count = len(self._test) if self._simulated else 0
        return Samples(count=count, num_voxels=num_voxels, repeats=repeats)

    def sample(self, number: int) -> tuple[Float[np.ndarray, "repeats voxels"], bytes]:
        """Return the responses to a test picture, and the picture.

        Raises:
            RefusedError: there is none of that number.
        """
        if number >= self.samples().count:
            raise RefusedError(404, f"number: there are {self.samples().count} samples")
        picture = self._test.pictures([number])[0]
        return self._test.voxels([number])[0].astype(np.float32), as_picture(
            decode(picture, f"sample {number}"), "webp"
        )

    def _embeddings(self, rows: Sequence[Row]) -> list[Float[np.ndarray, " f"] | RefusedError]:
        expected = self.predictor.num_voxels
        fits = [len(row) == expected for row in rows]
        found: dict[int, np.ndarray] = {}
        if kept := [number for number, fit in enumerate(fits) if fit]:
            embeddings = self.predictor.embed(np.stack([rows[number] for number in kept]))
            found = dict(zip(kept, embeddings, strict=True))
        answers: list[np.ndarray | RefusedError] = []
        for number, row in enumerate(rows):
            if number not in found:
                answers.append(wrong_size(len(row), expected))
            elif not np.isfinite(found[number]).all():
                answers.append(RefusedError(422, "voxels: the model's answer is not finite"))
            else:
                answers.append(found[number])
        return answers

    def _search(
        self, rows: Sequence[np.ndarray | RefusedError], k: int
    ) -> list[tuple[np.ndarray, np.ndarray] | RefusedError]:
        """Return numbers and cosines of each row's nearest pictures; one by one where that fails.

        What a pool cannot answer for one row must cost the others of its batch nothing.
        """
        answers: list[Any] = list(rows)
        asked = [n for n, row in enumerate(rows) if not isinstance(row, RefusedError)]
        if not asked:
            return answers
        most = min(len(self._gallery), k)
        try:
            found = self._gallery.search(np.stack([answers[n] for n in asked]), most)
        except UserError:
            if len(asked) > 1:
                return [self._search([row], k)[0] for row in rows]
            return [
                row if isinstance(row, RefusedError) else RefusedError(503, UNREADABLE, 1)
                for row in rows
            ]
        for number, numbers, cosines in zip(asked, *found, strict=True):
            answers[number] = (numbers, cosines)
        return answers

    def _retrieval(
        self, numbers: np.ndarray, cosines: np.ndarray, k: int, form: PictureFormat
    ) -> Retrieval | RefusedError:
        lead, best = float(cosines[0] - cosines[1]), numbers[:k].tolist()
        try:
            pictures = self._pictures(best, form)
        except UserError:
            return RefusedError(503, UNREADABLE, 1)
        return Retrieval(
            model=self.version,
            matches=[
                Match(number=number, similarity=cosine, picture=picture)
                for number, cosine, picture in zip(
                    best, cosines[:k].tolist(), pictures, strict=True
                )
            ],
            lead=Lead(
                value=lead,
                val_smaller=self._leads.fraction_below(lead),
                val_right=self._leads.accuracy_near(lead),
            ),
        )

    def _pictures(self, numbers: Sequence[int], form: PictureFormat) -> list[str]:
        """Return pictures of the gallery as data: URLs, those not yet kept read together."""
        if form == "none":
            return [""] * len(numbers)
        missing = [number for number in numbers if (number, form) not in self._kept]
        if len(self._kept) + len(missing) > KEPT_PICTURES:
            self._kept, missing = {}, list(numbers)
        for number, data in zip(missing, self._gallery.pictures(missing), strict=True):
            self._kept[number, form] = as_url(decode(data, f"picture {number}"), form)
        return [self._kept[number, form] for number in numbers]


def _open_gallery(settings: Service, data: EvaluationData) -> Gallery:
    if settings.pool:
        return Pool(Path(absolute_path(settings.pool)), data.targets)
    return SplitGallery(data.splits["test"])


def version_of(path: Path, name: str) -> str:
    """Return what a checkpoint is called: a name, and the digest of its manifest."""
    return f"{name}@{file_digest(path / MANIFEST)[:DIGITS]}"


def wrong_size(got: int, expected: int) -> RefusedError:
    """Return the refusal of a row of voxels of another brain."""
    return RefusedError(422, f"voxels: got {got}, expected {expected}")


def histogram(leads: Leads) -> Histogram:
    """Return the val split's leads in equal bins."""
    top = float(leads.values[-1]) or 1.0
    edges = np.linspace(0.0, top, BINS + 1)
    return Histogram(
        start=0.0,
        width=top / BINS,
        right=np.histogram(leads.values[leads.right], edges)[0].tolist(),
        wrong=np.histogram(leads.values[~leads.right], edges)[0].tolist(),
    )


def as_picture(rgb: np.ndarray, form: PictureFormat) -> bytes:
    """Return a picture as WebP or PNG, no wider than is shown."""
    picture, buffer = Image.fromarray(rgb), io.BytesIO()
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    picture.save(buffer, form, **({"quality": 90} if form == "webp" else {}))
    return buffer.getvalue()


def as_url(rgb: np.ndarray, form: PictureFormat) -> str:
    """Return a picture as a data: URL, empty where none is wanted."""
    if form == "none":
        return ""
    return f"data:image/{form};base64,{base64.b64encode(as_picture(rgb, form)).decode()}"
