"""What reconstructions are judged by: networks by name, and what is known of the pictures."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Weights of the published metrics' networks; a row without them says so.

    Each is a file (safetensors, or torch's state dict), or `hub` to download what is published.
    """

    alexnet: str = ""
    inception: str = ""
    clip: str = ""
    efficientnet_b1: str = ""
    swav: str = ""
    lite0: str = ""
    """A file alone; that of the optional package if it is empty."""
    antialias: bool = False
    """Filter when pictures are made smaller; the published scores are not filtered."""
