"""Retriever: voxels of a batch of brains -> embeddings, nearest gallery pictures, the model card.

Without Ray and HTTP. Every answer carries the version of its model. A brain that cannot be answered
gets a RefusedError in its place; the others of its batch are answered.
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
from serve.bodies import RefusedError, Row
from serve.schema import (
    GalleryCard,
    Histogram,
    Lead,
    Match,
    ModelCard,
    PictureFormat,
    Retrieval,
    Samples,
)
from serve.settings import Service

DIGEST_DIGITS = 12
BINS = 24
"""Bins of the histogram of leads."""
MAX_SIDE = 512
"""Longest side of a sent picture, in pixels."""
CACHED_PICTURES = 512
"""Maximum number of encoded gallery pictures kept in memory."""
UNREADABLE = "the gallery cannot be read"
NOTES = (
    "The model was trained on one brain: for another brain's responses its answers mean nothing.",
    "Responses must be z-scored like those of its training.",
    "Similarities are cosines, not probabilities; any input has a best picture.",
    "Shares of the val split hold for responses like those of the split; noise has a lead, too.",
)
RECORDED_BRAIN_NOTE = (
    "Trained on a person's brain responses: treat weights and answers as derived data."
)


@dataclass(frozen=True)
class VersionedEmbedding:
    """An embedding and the version of the model that gave it."""

    model: str
    embedding: Float[np.ndarray, " features"]


class Retriever:
    """Embeds voxels and retrieves gallery pictures, with a checkpoint and its gallery.

    Args:
        settings: settings of the service.
        path: folder of the checkpoint.
        version: version string for answers.
        device: torch device to compute on.

    Raises:
        CheckpointError: the checkpoint is not whole.
        DataError: the data cannot be read or do not fit, or the checkpoint is a low-level one.
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
        self._encoded: dict[tuple[int, PictureFormat], str] = {}
        self._card = self._make_card(settings)

    def embed(self, rows: Sequence[Row]) -> list[VersionedEmbedding | RefusedError]:
        """Return each row's embedding, of unit norm."""
        return [
            each if isinstance(each, RefusedError) else VersionedEmbedding(self.version, each)
            for each in self._embeddings(rows)
        ]

    def retrieve(
        self, requests: Sequence[tuple[Row, int, PictureFormat]]
    ) -> list[Retrieval | RefusedError]:
        """Return the k nearest pictures and the lead for each (voxels, k, format) request."""
        rows = self._embeddings([row for row, _, _ in requests])
        size = len(self._gallery)
        for number, (_, k, _) in enumerate(requests):
            if k > size and not isinstance(rows[number], RefusedError):
                rows[number] = RefusedError(422, f"k: got {k}, the gallery has {size} pictures")
        found = self._search(rows, max(2, *(k for _, k, _ in requests)))
        return [
            row if isinstance(row, RefusedError) else self._retrieval(*row, k, form)
            for row, (_, k, form) in zip(found, requests, strict=True)
        ]

    def card(self, generator: str, max_candidates: int) -> ModelCard:
        """Return the model card, with the generator that the service runs beside this model."""
        update = {"generator": generator, "max_candidates": max_candidates}
        return self._card.model_copy(update=update)

    def _make_card(self, settings: Service) -> ModelCard:
        """Make the card; called once, as the checkpoint may be deleted while it is served."""
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
                val_leads=bin_leads(leads),
            ),
            generator="",
            max_candidates=0,
            max_batch=settings.limits.batch,
            notes=[*NOTES, *([] if self._simulated else [RECORDED_BRAIN_NOTE])],
        )

    def samples(self) -> Samples:
        """Return the number and shape of the samples; a person's responses are never samples."""
        repeats, num_voxels = self._test.voxel_shape
        count = len(self._test) if self._simulated else 0
        return Samples(count=count, num_voxels=num_voxels, repeats=repeats)

    def sample(self, number: int) -> tuple[Float[np.ndarray, "repeats voxels"], bytes]:
        """Return the responses to a test picture, and the picture as WebP.

        Raises:
            RefusedError: there is no sample of that number.
        """
        if number >= self.samples().count:
            raise RefusedError(404, f"number: there are {self.samples().count} samples")
        picture = self._test.pictures([number])[0]
        return self._test.voxels([number])[0].astype(np.float32), encode_picture(
            decode(picture, f"sample {number}"), "webp"
        )

    def _embeddings(self, rows: Sequence[Row]) -> list[Float[np.ndarray, " f"] | RefusedError]:
        expected = self.predictor.num_voxels
        fits = [len(row) == expected for row in rows]
        embedded: dict[int, np.ndarray] = {}
        if numbers := [number for number, fit in enumerate(fits) if fit]:
            embeddings = self.predictor.embed(np.stack([rows[number] for number in numbers]))
            embedded = dict(zip(numbers, embeddings, strict=True))
        answers: list[np.ndarray | RefusedError] = []
        for number, row in enumerate(rows):
            if number not in embedded:
                answers.append(refuse_wrong_size(len(row), expected))
            elif not np.isfinite(embedded[number]).all():
                answers.append(RefusedError(422, "voxels: their embedding is not finite"))
            else:
                answers.append(embedded[number])
        return answers

    def _search(
        self, rows: Sequence[np.ndarray | RefusedError], k: int
    ) -> list[tuple[np.ndarray, np.ndarray] | RefusedError]:
        """Return numbers and cosines of each embedding's nearest pictures.

        If the search of a batch fails, each row is searched alone, so that one row's error does not
        refuse the others.
        """
        answers: list[Any] = list(rows)
        pending = [n for n, row in enumerate(rows) if not isinstance(row, RefusedError)]
        if not pending:
            return answers
        most = min(len(self._gallery), k)
        try:
            found = self._gallery.search(np.stack([answers[n] for n in pending]), most)
        except UserError:
            if len(pending) > 1:
                return [self._search([row], k)[0] for row in rows]
            return [
                row if isinstance(row, RefusedError) else RefusedError(503, UNREADABLE, 1)
                for row in rows
            ]
        for number, numbers, cosines in zip(pending, *found, strict=True):
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
        """Return gallery pictures as data: URLs; those not in the cache are read in one call."""
        if form == "none":
            return [""] * len(numbers)
        missing = [number for number in numbers if (number, form) not in self._encoded]
        if len(self._encoded) + len(missing) > CACHED_PICTURES:
            self._encoded, missing = {}, list(numbers)
        for number, data in zip(missing, self._gallery.pictures(missing), strict=True):
            self._encoded[number, form] = encode_data_url(decode(data, f"picture {number}"), form)
        return [self._encoded[number, form] for number in numbers]


def _open_gallery(settings: Service, data: EvaluationData) -> Gallery:
    if settings.pool:
        return Pool(Path(absolute_path(settings.pool)), data.targets)
    return SplitGallery(data.splits["test"])


def version_of(path: Path, name: str) -> str:
    """Return a checkpoint's version string: a name, and the digest of its manifest."""
    return f"{name}@{file_digest(path / MANIFEST)[:DIGEST_DIGITS]}"


def refuse_wrong_size(got: int, expected: int) -> RefusedError:
    """Return the refusal of voxels whose number is not the model's."""
    return RefusedError(422, f"voxels: got {got}, expected {expected}")


def bin_leads(leads: Leads) -> Histogram:
    """Return the histogram of the val split's leads, in equal bins from 0."""
    top = float(leads.values[-1]) or 1.0
    edges = np.linspace(0.0, top, BINS + 1)
    return Histogram(
        start=0.0,
        width=top / BINS,
        right=np.histogram(leads.values[leads.right], edges)[0].tolist(),
        wrong=np.histogram(leads.values[~leads.right], edges)[0].tolist(),
    )


def encode_picture(rgb: np.ndarray, form: PictureFormat) -> bytes:
    """Encode a picture as WebP or PNG, reduced to `MAX_SIDE` pixels."""
    picture, buffer = Image.fromarray(rgb), io.BytesIO()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    picture.save(buffer, form, **({"quality": 90} if form == "webp" else {}))
    return buffer.getvalue()


def encode_data_url(rgb: np.ndarray, form: PictureFormat) -> str:
    """Encode a picture as a data: URL; empty for the format none."""
    if form == "none":
        return ""
    return f"data:image/{form};base64,{base64.b64encode(encode_picture(rgb, form)).decode()}"
