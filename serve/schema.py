"""What goes over the wire: requests and answers of the service, with examples for OpenAPI.

Plain pydantic, so that a client needs neither Ray nor torch.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_REPEATS = 32
"""Trials of one picture in a request, at most; NSD has three."""
MAX_MATCHES = 50
MAX_CANDIDATES = 64

PictureFormat = Literal["webp", "png", "none"]
Task = Literal["embed", "retrieve", "reconstruct"]
# A body full of mistakes is told of the first one: each costs a thousand times a number's time.
Trial = Annotated[list[float], Field(min_length=1, fail_fast=True)]
Repeats = Annotated[list[Trial], Field(min_length=1, max_length=MAX_REPEATS, fail_fast=True)]


class Answer(BaseModel):
    """What every answer has."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    model: str = Field(
        description="Version of the model that answered: its name and number in the registry, if "
        "it has any, and the digest of its checkpoint.",
        examples=["mindeye/3@9af31c04d2b7"],
    )


class VoxelsBody(BaseModel):
    """Voxels of one brain as JSON: one trial, or repeats of the same picture, which are averaged.

    A `.npy` body (content type application/x-npy) of shape (voxels,) or (repeats, voxels) is
    smaller and faster.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    voxels: Trial | Repeats = Field(
        description="z-scored responses, (voxels,) or (repeats, voxels).",
        examples=[[0.31, -1.2, 0.05]],
    )


class BatchBody(BaseModel):
    """Voxels of many brains as JSON, each one trial or repeats."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    voxels: Annotated[list[Trial | Repeats], Field(min_length=1, fail_fast=True)] = Field(
        description="(brains, voxels) or (brains, repeats, voxels).",
        examples=[[[0.31, -1.2, 0.05], [0.1, 0.9, -0.4]]],
    )


class Embedding(Answer):
    """The projector's output, to be compared with flattened clip_tokens by cosine."""

    embedding: list[float] = Field(description="Unit norm, tokens x dim numbers, flattened.")


class Match(BaseModel):
    """A picture of the gallery."""

    number: int = Field(description="Of the picture in the gallery, from 0.")
    similarity: float = Field(description="Cosine with the brain's embedding.")
    picture: str = Field(description="data: URL of the picture; empty if none was asked for.")


class Lead(BaseModel):
    """How far the best picture is ahead of the second, against what the val split shows."""

    value: float = Field(description="Cosine of the best less that of the second.")
    val_smaller: float = Field(description="Share of the val split's leads that are smaller, 0..1.")
    val_right: float = Field(
        description="Of the val brains whose leads are nearest to this one, the share whose best "
        "picture was the one they saw, 0..1."
    )


class Retrieval(Answer):
    """The gallery's nearest pictures, best first."""

    matches: list[Match]
    lead: Lead


class Candidate(BaseModel):
    """A picture that was drawn."""

    similarity: float = Field(description="Cosine of its clip_tokens with the brain's embedding.")
    picture: str = Field(description="data: URL; empty if none was asked for.")


class Reconstruction(Answer):
    """Pictures drawn from a brain, and which of them is closest to what the projector says."""

    chosen: int = Field(description="Number of the best candidate, from 0.")
    candidates: list[Candidate]
    lowlevel: str = Field(description="data: URL of the blurry picture; empty where there is none.")


class BatchLine(BaseModel):
    """A line of the answer to a batch; lines come as they are finished."""

    brain: int = Field(description="Number of the brain in the request, from 0.")
    answer: Embedding | Retrieval | Reconstruction | None = None
    status: int = Field(default=200, description="As that of an answer to this brain alone.")
    error: str = Field(default="", description="Why there is no answer.")


class Histogram(BaseModel):
    """Leads of the val split's brains, in equal bins from `start` on."""

    start: float
    width: float
    right: list[int] = Field(description="Brains whose best picture was the one they saw.")
    wrong: list[int] = Field(description="The other brains.")


class Gallery(BaseModel):
    """The pictures that retrieval chooses from."""

    pictures: int
    val_top1: float = Field(
        description="Share of val brains whose own picture, put into the gallery, came first."
    )
    val_leads: Histogram


class ModelCard(Answer):
    """What is served."""

    num_voxels: int
    tokens: tuple[int, int] = Field(description="Tokens and their width.")
    parameters: int
    encoder: str = Field(description="By whose clip_tokens the model was trained.")
    steps: int = Field(description="Optimizer steps it was trained for.")
    val_score: float | None = Field(description="Mean of both directions' top-1 on the val split.")
    simulated: bool = Field(description="Whether the brain that it was trained on is simulated.")
    gallery: Gallery
    generator: str = Field(description="What draws pictures; empty if nothing does.")
    max_candidates: int
    max_batch: int = Field(description="Brains of one batch, at most.")
    notes: list[str] = Field(description="What a user ought to know.")


class Samples(BaseModel):
    """Responses of the simulated subject to try the service with; none for a real brain."""

    count: int
    num_voxels: int
    repeats: int


class Problem(BaseModel):
    """Why a request was refused."""

    error: str
    request_id: str
