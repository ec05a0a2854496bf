"""Latent diffusion models of diffusers' pipelines: conditions and seeds in, pictures out.

UNet and autoencoder come from a pipeline's folder (Rombach et al. 2022), the sampler is UniPC (Zhao
et al. 2023, order 2, bh2) with the noise schedule of the pipeline's own. What conditions the UNet
is the generators' affair.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.clip import DEVIATION, MEAN
from mindeye_dist.frozen.codecs import resize
from mindeye_dist.frozen.encoders import digest_of
from mindeye_dist.frozen.pretrained import load_part, load_settings
from mindeye_dist.generators.config import Precision
from mindeye_dist.generators.protocol import Latents, Pictures, denoise, noise_like

Conditions = Mapping[str, Tensor]
"""Arguments of the UNet by name, a row a picture."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of the sampling; every field changes the pictures.

    Attributes:
        steps: number of timesteps from noise to picture.
        guidance: of classifier-free guidance (Ho & Salimans 2022): 1 is none.
        last_sigma: noise level that the last step ends at: none, or that of timestep 0.
        init_normalisation: what the autoencoder is given of an initial picture: 2 x - 1, which it
            was trained on, or x normalised with CLIP's mean and deviation.
        posterior: what is taken of the autoencoder's posterior of an initial picture.

    Raises:
        InputError: a field is out of range.
    """

    steps: int = 20
    guidance: float = 3.5
    last_sigma: Literal["zero", "sigma_min"] = "zero"
    init_normalisation: Literal["unit", "clip"] = "unit"
    posterior: Literal["mode", "sample"] = "mode"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"sampling: got {self.steps} steps, expected 1 or more")
        if not 1 <= self.guidance < math.inf:
            raise InputError(f"sampling: got guidance {self.guidance}, expected 1 or more")
        for field, choices in (
            ("last_sigma", ("zero", "sigma_min")),
            ("init_normalisation", ("unit", "clip")),
            ("posterior", ("mode", "sample")),
        ):
            if getattr(self, field) not in choices:
                value = getattr(self, field)
                raise InputError(f"sampling: got {field} {value!r}, expected one of {choices}")


class LatentDiffusion:
    """A pipeline's UNet, autoencoder and noise schedule.

    Noise is drawn on the CPU and latents are kept in float32, so that a picture is the same on
    every device and in every precision but for the networks' rounding.

    Args:
        source: folder of the pipeline in the layout of `save_pretrained`, or its name on the
            Hugging Face hub; only safetensors weights are read.
        unet_folder: where in `source` the UNet is.
        sampling: how pictures are drawn.
        device: where to compute.
        dtype: of the networks.

    Raises:
        InputError: a part is missing, its weights do not fit its config, or the parts do not fit
            each other.
    """

    def __init__(
        self,
        source: str | Path,
        unet_folder: str,
        sampling: Sampling,
        *,
        device: torch.device | str = "cpu",
        dtype: Precision = "fp32",
    ) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel, UniPCMultistepScheduler

        if dtype not in DTYPES:
            raise InputError(f"{source}: got dtype {dtype!r}, expected one of {list(DTYPES)}")
        unet = load_part(UNet2DConditionModel, source, unet_folder)
        vae = load_part(AutoencoderKL, source, "vae")
        if unet.config.in_channels != vae.config.latent_channels:
            raise InputError(
                f"{source}: the UNet takes {unet.config.in_channels} channels, expected the "
                f"autoencoder's {vae.config.latent_channels}"
            )
        self._scheduler = load_settings(
            UniPCMultistepScheduler, source, "scheduler", final_sigmas_type=sampling.last_sigma
        )
        size = unet.config.sample_size
        self.latent_shape = (vae.config.latent_channels, size, size)
        self.side = size * 2 ** (len(vae.config.block_out_channels) - 1)
        self.unet_config = unet.config
        self.sampling = sampling
        networks = torch.nn.ModuleDict({"unet": unet, "vae": vae})
        self.digest = digest_of(
            " ".join([str(sampling), dtype, *map(describe, (unet, vae, self._scheduler))]),
            networks.state_dict(),
        )
        self.device, self.dtype = torch.device(device), DTYPES[dtype]
        networks.eval().requires_grad_(False).to(self.device, self.dtype)
        # One picture at a time: its activations at 512 pixels are large, whatever the UNet's batch.
        vae.enable_slicing()
        self._unet, self._vae, self._source = unet, vae, source

    @torch.no_grad()
    def draw(
        self,
        given: Conditions,
        absent: Conditions,
        seeds: Sequence[int],
        init: Pictures | None = None,
        strength: float = 1.0,
    ) -> Pictures:
        """Return pictures in [0, 1], (batch, 3, side, side), in float32.

        Args:
            given: conditions of the pictures.
            absent: conditions of no picture in particular, which guidance leads away from.
            seeds: of the noise, one a picture.
            init: pictures in [0, 1] of any size to start from. Where no step is run from them they
                only go through the autoencoder, whatever their normalisation.
            strength: share of the steps that is run from `init`; 1 starts from noise alone.

        Raises:
            InputError: a picture is not finite, as half precision may make it.
        """
        if strength == 1:
            init = None
        if init is not None and int(self.sampling.steps * strength) == 0:
            pixels = 2 * self._resized(init) - 1
            return self._decode(self._scaled(self._posterior(pixels).mode()), seeds)
        latents = denoise(
            self._scheduler,
            self._predictor(given, absent),
            self.noise(self.latent_shape, seeds),
            steps=self.sampling.steps,
            init=None if init is None else self._encode(init, seeds),
            strength=strength,
        )
        return self._decode(latents, seeds)

    def noise(
        self, shape: tuple[int, ...], seeds: Sequence[int], purpose: str = "generator"
    ) -> Tensor:
        """Return standard normal noise of a shape for each seed, the same on every device."""
        return noise_like(shape, seeds, torch.device("cpu"), purpose).to(self.device)

    def _predictor(
        self, given: Conditions, absent: Conditions
    ) -> Callable[[Latents, Tensor], Latents]:
        """Return the guided network, from latents and a timestep to what the sampler expects."""
        guidance = self.sampling.guidance
        parts = [given] if guidance == 1 else [absent, given]
        conditions = {
            key: torch.cat([part[key] for part in parts]).to(self.device, self.dtype)
            for key in given
        }

        def predict(latents: Latents, timestep: Tensor) -> Latents:
            twice = torch.cat([latents.to(self.dtype)] * len(parts))
            predicted = self._unet(twice, timestep, **conditions).sample.float().chunk(len(parts))
            return predicted[0] + guidance * (predicted[-1] - predicted[0])

        return predict

    def _encode(self, init: Pictures, seeds: Sequence[int]) -> Latents:
        pixels = self._resized(init)
        if self.sampling.init_normalisation == "clip":
            mean, deviation = (
                torch.tensor(values, device=self.device).view(3, 1, 1)
                for values in (MEAN, DEVIATION)
            )
            pixels = (pixels - mean) / deviation
        else:
            pixels = 2 * pixels - 1
        posterior = self._posterior(pixels)
        if self.sampling.posterior == "mode":
            return self._scaled(posterior.mode())
        noise = self.noise(self.latent_shape, seeds, "posterior")
        return self._scaled(posterior.mean.float() + posterior.std.float() * noise)

    def _resized(self, init: Pictures) -> Pictures:
        return resize(init.to(self.device), self.side)

    def _posterior(self, pixels: Pictures) -> Any:
        return self._vae.encode(pixels.to(self.dtype)).latent_dist

    def _scaled(self, latents: Latents) -> Latents:
        return latents.float() * self._vae.config.scaling_factor

    def _decode(self, latents: Latents, seeds: Sequence[int]) -> Pictures:
        scaled = (latents / self._vae.config.scaling_factor).to(self.dtype)
        pixels = self._vae.decode(scaled).sample.float()
        broken = (~torch.isfinite(pixels)).flatten(1).any(dim=1).tolist()
        if any(broken):
            bad = [seed for seed, is_broken in zip(seeds, broken, strict=True) if is_broken]
            raise InputError(
                f"{self._source}: pictures of seeds {bad} are not finite in {self.dtype}"
            )
        return (pixels / 2 + 0.5).clamp(0, 1)


def describe(part: Any) -> str:
    """Return the config of a part of diffusers, without who wrote it, as text for a digest."""
    settings = {key: value for key, value in part.config.items() if not key.startswith("_")}
    return json.dumps(settings, sort_keys=True, default=str)
