"""Generators: clip_tokens in, pictures out, what every one of them has in common.

A generator is a latent diffusion model that is conditioned on image tokens: published MindEye takes
Versatile Diffusion (Scotti et al. 2023, section 3.3 and appendix). Its noise comes from one seed a
picture, so that a picture does not depend on what else is in the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mindeye_dist.errors import InputError
from mindeye_dist.randomness import torch_generator

Tokens = Float[Tensor, "batch tokens dim"]
Pictures = Float[Tensor, "_ 3 _ _"]
Latents = Float[Tensor, "batch channels rows columns"]


@runtime_checkable
class Generator(Protocol):
    """Interface of a generator: tokens -> pictures."""

    name: str
    digest: str
    """Hex digest over weights and settings: it changes whenever the pictures could change."""
    token_shape: tuple[int, int]
    """Tokens and their width that it takes."""
    encoder_digest: str
    """Of the encoder by whose tokens it was trained; empty where its weights do not say."""
    side: int
    """Width and height of its pictures (pixels)."""

    def __call__(
        self,
        tokens: Tokens,
        seeds: Sequence[int],
        init: Pictures | None = None,
        strength: float = 1.0,
    ) -> Pictures:
        """Return pictures in [0, 1], (batch, 3, side, side).

        Args:
            tokens: in the scale of the targets.
            seeds: of the noise, one a picture.
            init: pictures in [0, 1] of any size to start from (img2img).
            strength: how much of `init` is replaced: 1 all of it, 0 nothing.

        Raises:
            InputError: tokens of another shape or not finite, or seeds or initial pictures of
                another number.
        """
        ...


def check_request(
    generator: Generator,
    tokens: Tokens,
    seeds: Sequence[int],
    init: Pictures | None,
    strength: float,
) -> None:
    """Check the arguments of a call of a generator.

    Raises:
        InputError: it cannot; see `Generator.__call__`.
    """
    name = generator.name
    if tuple(tokens.shape[1:]) != generator.token_shape:
        raise InputError(
            f"{name}: got tokens {tuple(tokens.shape)}, expected (batch, "
            f"{generator.token_shape[0]}, {generator.token_shape[1]})"
        )
    for what, values in (("tokens", tokens), ("initial pictures", init)):
        if values is not None and not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).flatten(1).any(dim=1).sum())
            raise InputError(f"{name}: {what} of {bad} of {len(values)} are not finite")
    if len(seeds) != len(tokens):
        raise InputError(f"{name}: got {len(seeds)} seeds for {len(tokens)} pictures")
    if init is not None and len(init) != len(tokens):
        raise InputError(f"{name}: got {len(init)} initial pictures for {len(tokens)} pictures")
    if not 0 <= strength <= 1:
        raise InputError(f"{name}: got strength {strength}, expected 0..1")


def noise_like(
    shape: tuple[int, ...], seeds: Sequence[int], device: torch.device, purpose: str = "generator"
) -> Float[Tensor, "batch ..."]:
    """Return standard normal noise of a shape for each seed."""
    return torch.stack(
        [
            torch.randn(shape, generator=torch_generator(device, seed, purpose), device=device)
            for seed in seeds
        ]
    )


def once_each(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Return a function's values row by row, computed once for rows that are equal.

    Candidates of a brain have the same picture to start from, and often the same tokens.
    """
    distinct, which = torch.unique(values, dim=0, return_inverse=True)
    return function(distinct)[which]


@torch.no_grad()
def denoise(
    scheduler: Any,
    predict: Callable[[Latents, Tensor], Latents],
    noise: Latents,
    *,
    steps: int,
    init: Latents | None = None,
    strength: float = 1.0,
) -> Latents:
    """Return latents by a deterministic sampler of diffusers, from noise or from given latents.

    img2img (Meng et al. 2022): of `steps` timesteps the last int(steps * strength) are run,
    from `init` with noise of the first of them. Nothing is run where that is none.

    Args:
        scheduler: of diffusers, left as it is.
        predict: the network, from latents and a timestep to what the scheduler expects of it.
        noise: standard normal.
        steps: timesteps of the whole way.
        init: latents to start from; noise alone without.
        strength: share of the way that is run from `init`.
    """
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(steps, device=noise.device)
    run = steps if init is None else min(int(steps * strength), steps)
    if init is not None and run == 0:
        return init
    timesteps = scheduler.timesteps[-run * scheduler.order :]
    latents = noise * scheduler.init_noise_sigma
    if init is not None:
        scheduler.set_begin_index(len(scheduler.timesteps) - len(timesteps))
        latents = scheduler.add_noise(init, noise, timesteps[:1].expand(len(noise)))
    for timestep in timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(predict(scaled, timestep), timestep, latents).prev_sample
    return latents
