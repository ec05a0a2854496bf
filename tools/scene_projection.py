"""The projection of rendered scenes: an encoder's channels -> what the captions speak of.

CLIP was trained on captions, so its tokens tell kinds and colours; of an encoder that was trained
to tell classes apart, the leading principal components tell them less well. Here the directions are
kept that a ridge regression of the labels (kind, colour, size, ground) uses: canonical correlation
of channels and labels (Hotelling 1936; as linear discriminants Hastie et al. 1995), each of unit
variance, so that a contrast counts alike however well it is told. Where the object is, one more
direction of the map's channels tells. Fitted once to scenes whose truth is known, and fixed: the
tokens, and so the demo's voxels, know these labels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import one_hot

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.efficientnet import CROP, RESIZE
from mindeye_dist.frozen.projection import Moments, Projection, signed
from mindeye_dist.simulation.scene_objects import DRAWINGS
from mindeye_dist.simulation.scenes import COLORS, GROUNDS, PLACES, SIZES

NAMES: dict[str, Sequence[str]] = {
    "kind": list(DRAWINGS),
    "color": list(COLORS),
    "size": list(SIZES),
    "ground": list(GROUNDS),
}
PENALTY = 0.03
"""Of the ridge, as a share of the channels' mean variance."""
LEAST = 1e-6
"""Least variance of a direction, as a share of the largest."""
PRESENCE = 0.5
"""Variance of the object's presence, as a share of that of all contrasts together: where a thing is
should count, though it is one number among as many as there are contrasts."""
REACH = 1 / 3
"""Standard deviation of an object's presence around its place, in the object's own width."""

Factors = Mapping[str, str]


def fit_scene_projection(
    batches: Iterable[tuple[Float[Tensor, "_ tokens channels"], Sequence[Factors]]],
) -> Projection:
    """Fit the discriminants of scenes' factors to batches of their tokens, each seen once.

    Token 0 is fitted to the kind, colour, size and ground of its scene: as many discriminants as
    contrasts between these labels, over these scenes each of mean 0 and variance 1. The others, a
    square map, are fitted to how far the object is where they look: one direction more, which
    token 0 has not. They share all else with token 0, as tokens of CLIP's transformer do.

    Raises:
        InputError: there are too few scenes or channels, a scene lacks a factor, or the tokens are
            no square map and one before it.
    """
    summary, others = _Regression(), _Regression()
    for tokens, factors in batches:
        side = math.isqrt(tokens.shape[1] - 1)
        if side**2 != tokens.shape[1] - 1:
            raise InputError(f"got {tokens.shape[1]} tokens, expected one and a square map")
        summary.add(tokens[:, 0], scene_labels(factors))
        others.add(
            rearrange(tokens[:, 1:], "scene place channel -> (scene place) channel"),
            rearrange(presence(factors, side), "scene place -> (scene place) 1"),
        )
    contrasts = sum(len(names) - 1 for names in NAMES.values())
    summary_mean, summary_basis = summary.discriminants(contrasts)
    map_mean, map_basis = others.discriminants(1)
    return Projection(
        summary_mean=summary_mean,
        summary_basis=functional.pad(summary_basis, (0, 1)),
        map_mean=map_mean,
        map_basis=functional.pad(map_basis * math.sqrt(PRESENCE * contrasts), (contrasts, 0)),
        shares_summary=True,
    )


def scene_labels(factors: Sequence[Factors]) -> Float[Tensor, "scenes labels"]:
    """Return 1 for the kind, colour, size and ground of each scene, 0 for all others.

    Raises:
        InputError: a scene lacks a factor.
    """
    return torch.cat([_one_hot(factors, name) for name in NAMES], dim=1)


def presence(factors: Sequence[Factors], side: int) -> Float[Tensor, "scenes places"]:
    """Return how far the object is at each place of an encoder's `side` x `side` map, row by row.

    That is 1 at the centre of its place and less around it, by its size. (A large object at the
    edge stands up to 0.06 of the picture further in, or it would be cut off.)

    Raises:
        InputError: a scene lacks a factor.
    """
    # The encoder looks at the middle of the picture only.
    grid = 0.5 + ((torch.arange(side) + 0.5) / side - 0.5) * CROP / RESIZE
    centres = torch.tensor([PLACES[name] for name in _values(factors, "place")])
    reach = REACH * torch.tensor([SIZES[name] for name in _values(factors, "size")])[:, None]
    across, down = (torch.exp(-(((grid - c[:, None]) / reach) ** 2) / 2) for c in centres.T)
    return rearrange(down[:, :, None] * across[:, None], "scene row column -> scene (row column)")


def _one_hot(factors: Sequence[Factors], name: str) -> Float[Tensor, "scenes labels"]:
    names = list(NAMES[name])
    numbers = torch.tensor([names.index(value) for value in _values(factors, name)])
    return one_hot(numbers, len(names)).float()


def _values(factors: Sequence[Factors], name: str) -> list[str]:
    for number, truth in enumerate(factors):
        if name not in truth:
            raise InputError(f"scene {number}: its truth {dict(truth)} lacks {name}")
    return [truth[name] for truth in factors]


class _Regression:
    """Running moments of channels and labels, and the discriminants that they give."""

    def __init__(self) -> None:
        self.moments = Moments()

    def add(
        self, channels: Float[Tensor, "count channels"], labels: Float[Tensor, "count labels"]
    ) -> None:
        self.labels = labels.shape[1]
        self.moments.add(torch.cat([channels.detach().cpu().float(), labels], dim=1))

    def discriminants(
        self, dim: int
    ) -> tuple[Float[Tensor, " channels"], Float[Tensor, "channels dim"]]:
        """Return the channels' mean, and the basis of the `dim` leading discriminants."""
        if self.moments.count <= dim:
            raise InputError(f"{dim} discriminants asked of {self.moments.count} vectors")
        mean, covariance = self.moments.mean_and_covariance()
        channels = len(covariance) - self.labels
        of_channels, across = covariance[:channels, :channels], covariance[:channels, channels:]
        whitening = _whitening(covariance[channels:, channels:], dim)
        ridge = PENALTY * of_channels.diagonal().mean() * torch.eye(channels, dtype=torch.float64)
        weights = torch.linalg.solve(of_channels + ridge, across @ whitening)
        values, rotation = torch.linalg.eigh(weights.T @ of_channels @ weights)
        if not values[0] > LEAST * values[-1]:
            found = int((values > LEAST * values[-1]).sum())
            raise InputError(
                f"{dim} discriminants asked of {channels} channels, which tell {found} apart"
            )
        basis = (weights @ rotation / values.sqrt()).flip(1)
        return mean[:channels].float(), signed(basis)


def _whitening(covariance: Float[Tensor, "labels labels"], dim: int) -> Float[Tensor, "labels dim"]:
    values, vectors = torch.linalg.eigh(covariance)
    if not values[-dim] > LEAST * values[-1]:
        raise InputError(
            f"the scenes' labels vary in fewer than {dim} directions: expected more scenes"
        )
    return vectors[:, -dim:] / values[-dim:].sqrt()
