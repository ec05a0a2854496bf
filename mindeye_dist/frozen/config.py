"""Settings of trained codecs, in plain Python."""

from dataclasses import dataclass

from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Size of the small autoencoder."""

    channels: int = 8
    """Channels of the latents."""
    widths: tuple[int, ...] = (48, 96)
    """Channels of the layers at a half and a quarter of the picture's width."""

    def __post_init__(self) -> None:
        check(len(self.widths) == 2, "widths", self.widths, "two")
