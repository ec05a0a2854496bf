"""The project's own autoencoder: small pictures <-> few latents, for the project's own generator.

Convolutions alone, a quarter of the width, trained by jobs/train_generator.py. Latents lie in
-1..1 (Rombach et al. 2022, section 3.1, want a bounded scale too), and bear noise while it is
trained, so that what a generator makes of them need not be exact.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.codecs import check_finite, check_latents, unit_range
from mindeye_dist.frozen.config import AutoencoderConfig
from mindeye_dist.frozen.encoders import digest_of
from mindeye_dist.strict import check, from_dict

Pictures = Float[Tensor, "batch 3 height width"]
Latents = Float[Tensor, "batch channels rows columns"]
SCENES_AUTOENCODER = Path(__file__).parents[1] / "assets" / "scenes-autoencoder.safetensors"
"""The autoencoder of the project's rendered scenes, which comes with it."""

FACTOR = 4
"""Pixels across a latent."""


def latent_shape(config: AutoencoderConfig, side: int) -> tuple[int, int, int]:
    """Return channels, height and width of the latents of pictures of a side (pixels).

    Raises:
        InputError: `side` is no multiple of 4.
    """
    fits = side >= FACTOR and side % FACTOR == 0
    check(fits, "small-autoencoder: side", side, f"a multiple of {FACTOR}")
    return (config.channels, side // FACTOR, side // FACTOR)


class Autoencoder(nn.Module):
    """Pictures in [-1, 1] -> latents in (-1, 1) -> pictures.

    Args:
        config: of the network.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        half, quarter = config.widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, half, 3, padding=1),
            _Block(half),
            nn.Conv2d(half, quarter, 2, stride=2),
            _Block(quarter),
            nn.Conv2d(quarter, config.channels, 1),
            nn.Tanh(),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.channels, quarter, 3, padding=1),
            _Block(quarter),
            _Block(quarter),
            nn.ConvTranspose2d(quarter, half, 2, stride=2),
            _Block(half),
            nn.Conv2d(half, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )


class _Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(
        self, x: Float[Tensor, "batch width rows columns"]
    ) -> Float[Tensor, "batch width rows columns"]:
        """Return features of the same shape."""
        return x + self.second(functional.silu(self.first(functional.silu(x))))


def reconstruction_loss(
    network: Autoencoder,
    pictures: Pictures,
    noise: float,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Return the mean absolute error of pictures, and of their edges, after noise on the latents.

    Args:
        network: to train.
        pictures: in [-1, 1].
        noise: standard deviation.
        generator: of the noise.
    """
    latents = network.encoder(pictures)
    disturbed = latents + noise * torch.randn(
        latents.shape, generator=generator, device=latents.device
    )
    error = network.decoder(disturbed) - pictures
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    return error.abs().mean() + across.abs().mean() + down.abs().mean()


class SmallAutoencoder:
    """A trained Autoencoder, as a `LatentCodec`.

    Args:
        network: whose weights are rounded to half precision, as they are kept.
        config: of the network.
        side: width and height of the pictures (pixels), a multiple of 4.
        about: what else is known, such as how it was trained; kept in its file.
        device: where to compute.

    Raises:
        InputError: `side` is no multiple of 4.
    """

    name = "small-autoencoder"

    def __init__(
        self,
        network: Autoencoder,
        config: AutoencoderConfig,
        side: int,
        *,
        about: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.side, self.about = config, side, about or {}
        self.shape = latent_shape(config, side)
        network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
        constants = f"{self.name} {side} area 2x-1 {json.dumps(asdict(config), sort_keys=True)}"
        self.digest = digest_of(constants, network.state_dict())
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = device

    @torch.no_grad()
    def encode(self, images: Pictures) -> Latents:
        """Encode images with values in [0, 1] of any size.

        Raises:
            InputError: values are not finite.
        """
        check_finite(images, f"{self.name}: images")
        small = functional.adaptive_avg_pool2d(images.to(self._device).float(), self.side)
        latents: Latents = self._network.encoder(2 * small - 1)
        return latents

    @torch.no_grad()
    def decode(self, latents: Latents) -> Pictures:
        """Return the pictures that latents stand for, (batch, 3, side, side) in [0, 1].

        Raises:
            InputError: the latents have another shape or are not finite.
        """
        check_latents(self, latents)
        return unit_range(self._network.decoder(latents.to(self._device).float()))

    def save(self, path: Path) -> None:
        """Write weights in half precision, and all else that `load` needs, to one file."""
        about = {"config": asdict(self.config), "side": self.side, "about": self.about}
        halves = {k: v.half().contiguous().cpu() for k, v in self._network.state_dict().items()}
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(save(halves, {"autoencoder": json.dumps(about, sort_keys=True)}))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, *, device: torch.device | str = "cpu") -> "SmallAutoencoder":
        """Load an autoencoder that `save` wrote.

        Raises:
            InputError: there is no such file, or it is no autoencoder.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["autoencoder"])
                tensors = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118
            config = from_dict(AutoencoderConfig, about["config"], partial=True)
            network = Autoencoder(config)
            network.load_state_dict(tensors)
            return cls(network, config, about["side"], about=about["about"], device=device)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            short = " ".join(str(error).split())
            raise InputError(f"{path}: is no autoencoder's file: {short}") from error
