"""Projection: an encoder's channels -> fewer components, fitted on pictures."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.encoders import ImageEncoder, digest_of

ENCODER_FILE = "encoders/efficientnet-lite0.safetensors"
"""Where the projection of a simulated subject's encoder lies, beside its shards."""


SCENES_ENCODER = Path(__file__).parents[1] / "assets" / "scenes-encoder.safetensors"
"""The projection of rendered scenes, which comes with the project: fixed (tools/fit_scenes.py), so
that the generator that comes with it draws from the same tokens everywhere."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear map of an encoder's tokens: one of token 0, and one of all others."""

    summary_mean: Float[Tensor, " channels"]
    summary_basis: Float[Tensor, "channels dim"]
    map_mean: Float[Tensor, " channels"]
    map_basis: Float[Tensor, "channels dim"]
    shares_summary: bool = False
    """Add token 0 to all others, which in a transformer have seen the whole picture too; so it is
    for a low-level teacher's map."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return means and bases by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


def fit_projection(
    token_batches: Iterable[Float[Tensor, "_ tokens channels"]], dim: int
) -> Projection:
    """Fit the `dim` leading principal components to batches of pictures' tokens, each seen once.

    Only means and covariances are kept, summed in float64, so memory does not grow with the number
    of pictures. The largest entry of each component is positive.

    Raises:
        InputError: If there are not more pictures, or not as many channels, as components.
    """
    summary, others = Moments(), Moments()
    for tokens in token_batches:
        summary.add(tokens[:, 0])
        others.add(rearrange(tokens[:, 1:], "picture token channel -> (picture token) channel"))
    summary_mean, summary_basis = summary.principal_components(dim)
    map_mean, map_basis = others.principal_components(dim)
    return Projection(
        summary_mean=summary_mean,
        summary_basis=summary_basis,
        map_mean=map_mean,
        map_basis=map_basis,
    )


class Moments:
    """Running first and second moments of vectors."""

    def __init__(self) -> None:
        self.count = 0
        # Scalars: they broadcast to the shape of what is added first.
        self.sum = torch.zeros((), dtype=torch.float64)
        self.sum_of_products = torch.zeros((), dtype=torch.float64)

    def add(self, vectors: Float[Tensor, "count channels"]) -> None:
        """Take over some vectors."""
        x = vectors.detach().cpu().float()
        self.count += len(x)
        self.sum = self.sum + x.double().sum(dim=0)
        # Products of a batch in float32, which is four times as fast; their sum is in float64.
        self.sum_of_products = self.sum_of_products + (x.T @ x).double()

    def mean_and_covariance(
        self,
    ) -> tuple[Float[Tensor, " channels"], Float[Tensor, "channels channels"]]:
        """Return both, in float64, of all vectors so far."""
        mean = self.sum / self.count
        return mean, self.sum_of_products / self.count - torch.outer(mean, mean)

    def principal_components(
        self, dim: int
    ) -> tuple[Float[Tensor, " channels"], Float[Tensor, "channels dim"]]:
        """Return the mean and the orthonormal leading eigenvectors of the covariance."""
        channels = self.sum.numel()
        if not 1 <= dim <= min(channels, self.count - 1):
            message = f"{dim} components asked of {self.count} vectors of {channels} channels"
            raise InputError(message)
        mean, covariance = self.mean_and_covariance()
        basis = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :dim]
        return mean.float(), signed(basis)


def signed(basis: Float[Tensor, "channels dim"]) -> Float[Tensor, "channels dim"]:
    """Return directions, in float32, with signs that make the largest entry of each positive."""
    largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    return (basis * largest.sign()).float().contiguous()


def project(
    tokens: Float[Tensor, "batch tokens channels"], projection: Projection
) -> Float[Tensor, "batch tokens dim"]:
    """Reduce raw tokens and divide all of a picture's by the norm of its reduced token 0."""
    parts = {part: values.to(tokens.device) for part, values in projection.tensors.items()}
    summary = (tokens[:, :1] - parts["summary_mean"]) @ parts["summary_basis"]
    others = (tokens[:, 1:] - parts["map_mean"]) @ parts["map_basis"]
    if projection.shares_summary:
        others = others + summary
    norm = summary.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(tokens.dtype).tiny)
    return torch.cat([summary, others], dim=1) / norm


class ProjectedEncoder:
    """An encoder followed by its fitted projection; token 0 of the result has unit norm."""

    def __init__(self, encoder: ImageEncoder, projection: Projection) -> None:
        channels, self.dim = projection.map_basis.shape
        if channels != encoder.dim:
            message = f"the projection is of {channels} channels, {encoder.name} has {encoder.dim}"
            raise InputError(message)
        self.encoder, self.projection = encoder, projection
        self.name = f"{encoder.name}-projected{self.dim}"
        self.num_tokens = encoder.num_tokens
        constants = f"{encoder.digest}{' shares summary' if projection.shares_summary else ''}"
        self.digest = digest_of(constants, projection.tensors)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Encode images with values in [0, 1]."""
        return project(self.encoder(images), self.projection)

    def save(self, path: Path) -> None:
        """Write the projection, and which encoder it is for, to one safetensors file."""
        metadata = {
            "encoder": self.encoder.name,
            "encoder_digest": self.encoder.digest,
            "shares_summary": str(self.projection.shares_summary),
        }
        partial = path.with_name(path.name + ".partial")
        # Not `save_file`, whose files only their owner may read.
        partial.write_bytes(save(self.projection.tensors, metadata))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, encoder: ImageEncoder) -> "ProjectedEncoder":
        """Load an encoder that `save` wrote.

        Raises:
            InputError: If the file is no projection, or one fitted to another encoder.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from error
        wanted = {field.name for field in fields(Projection)} - {"shares_summary"}
        if set(tensors) != wanted:
            message = f"{path} is no projection: it holds {sorted(tensors)}, not {sorted(wanted)}"
            raise InputError(message)
        if metadata.get("encoder_digest") != encoder.digest:
            message = (
                f"{path} was fitted to encoder {metadata.get('encoder')} with digest "
                f"{metadata.get('encoder_digest')}, not to {encoder.name} with {encoder.digest}"
            )
            raise InputError(message)
        shares = metadata.get("shares_summary") == "True"
        return cls(encoder, Projection(**tensors, shares_summary=shares))
