"""Requests and answers of the service as pydantic models, with descriptions for OpenAPI.

Imports neither Ray nor torch, so that a client does without them.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_REPEATS = 32
"""Maximum number of repeats of one picture in a request; NSD has three."""
MAX_MATCHES = 50
MAX_CANDIDATES = 64

PictureFormat = Literal["webp", "png", "none"]
BatchTask = Literal["embed", "retrieve", "reconstruct"]
# Validation stops at the first mistake: each costs a thousand times the time of a number.
Repeat = Annotated[list[float], Field(min_length=1, fail_fast=True)]
Repeats = Annotated[list[Repeat], Field(min_length=1, max_length=MAX_REPEATS, fail_fast=True)]


class Answer(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    model: str = Field(
        description="Version of the model that answered: its name, its number if it is registered, "
        "and the digest of its checkpoint.",
        examples=["mindeye/3@9af31c04d2b7"],
    )


class VoxelsBody(BaseModel):
    """Voxels of one brain as JSON: one repeat, or several of the same picture, which are averaged.

    A `.npy` body (content type application/x-npy) of shape (voxels,) or (repeats, voxels) is
    smaller and faster.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    voxels: Repeat | Repeats = Field(
        description="z-scored responses, (voxels,) or (repeats, voxels).",
        examples=[[0.31, -1.2, 0.05]],
    )


class BatchBody(BaseModel):
    """Voxels of many brains as JSON, one or several repeats each."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    voxels: Annotated[list[Repeat | Repeats], Field(min_length=1, fail_fast=True)] = Field(
        description="(brains, voxels) or (brains, repeats, voxels).",
        examples=[[[0.31, -1.2, 0.05], [0.1, 0.9, -0.4]]],
    )


class Embedding(Answer):
    """The projector's output, to be compared with flattened clip_tokens by cosine."""

    embedding: list[float] = Field(description="Unit norm, tokens x dim numbers, flattened.")


class Match(BaseModel):
    """A picture of the gallery."""

    number: int = Field(description="Number of the picture in the gallery, from 0.")
    similarity: float = Field(description="Cosine with the brain's embedding.")
    picture: str = Field(description="data: URL of the picture; empty if none was asked for.")


class Lead(BaseModel):
    """Lead of the best picture over the second, compared with the leads on the val split."""

    value: float = Field(description="Cosine of the best picture minus cosine of the second.")
    val_smaller: float = Field(description="Share of the val split's leads that are smaller, 0..1.")
    val_right: float = Field(
        description="Share of correct best pictures among the val brains with the nearest leads, "
        "0..1."
    )


class Retrieval(Answer):
    """The gallery's nearest pictures, best first."""

    matches: list[Match]
    lead: Lead


class Candidate(BaseModel):
    """A drawn picture."""

    similarity: float = Field(description="Cosine of its clip_tokens with the brain's embedding.")
    picture: str = Field(description="data: URL; empty if none was asked for.")


class Reconstruction(Answer):
    """Pictures drawn from a brain, one of them chosen: the closest to the brain's embedding."""

    chosen: int = Field(description="Number of the chosen candidate, from 0.")
    candidates: list[Candidate]
    lowlevel: str = Field(description="data: URL of the blurry picture; empty if there is none.")


class BatchLine(BaseModel):
    """A line of the answer to a batch; lines come as brains are finished, in any order."""

    brain: int = Field(description="Number of the brain in the request, from 0.")
    answer: Embedding | Retrieval | Reconstruction | None = None
    status: int = Field(
        default=200, description="HTTP status that a request for this brain alone would get."
    )
    error: str = Field(default="", description="Reason of a missing answer; empty otherwise.")


class Histogram(BaseModel):
    """Leads of the val split's brains, in equal bins from `start` on."""

    start: float
    width: float
    right: list[int] = Field(description="Brains whose best picture is the seen one.")
    wrong: list[int] = Field(description="The other brains.")


class GalleryCard(BaseModel):
    """The gallery: the pictures that retrieval chooses from."""

    pictures: int
    val_top1: float = Field(
        description="Share of val brains whose seen picture comes first once added to the gallery."
    )
    val_leads: Histogram


class ModelCard(Answer):
    """The served model: its brain, its training and its gallery."""

    num_voxels: int
    tokens: tuple[int, int] = Field(description="Number of clip_tokens and their width.")
    parameters: int
    encoder: str = Field(description="Encoder whose clip_tokens the model predicts.")
    steps: int = Field(description="Optimizer steps of training.")
    val_score: float | None = Field(description="Mean top-1 of both directions on the val split.")
    simulated: bool = Field(description="True for a model trained on a simulated brain.")
    gallery: GalleryCard
    generator: str = Field(description="Name of the image generator; empty if there is none.")
    max_candidates: int
    max_batch: int = Field(description="Maximum number of brains in a batch.")
    notes: list[str] = Field(description="Limitations for the user to know.")


class Samples(BaseModel):
    """Number and shape of the sample responses of a simulated subject; 0 for a real brain."""

    count: int
    num_voxels: int
    repeats: int


class Problem(BaseModel):
    """The answer to a refused request: the reason, and the request's id for the log."""

    error: str
    request_id: str
