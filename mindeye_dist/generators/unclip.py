"""Stable unCLIP: a decoder of one CLIP image embedding that diffusers maintains.

Stable Diffusion 2.1, finetuned to a picture's embedding in place of the timestep's label (Ramesh et
al. 2022 is the idea). Its smaller published model takes ViT-L/14's embedding of 768, as the 1 x 768
prior of MindEye predicts it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mindeye_dist.errors import InputError, MissingPackageError
from mindeye_dist.frozen.encoders import digest_of
from mindeye_dist.frozen.pretrained import load_part, load_settings
from mindeye_dist.generators.config import Precision
from mindeye_dist.generators.latent_diffusion import LatentDiffusion, Sampling, describe
from mindeye_dist.generators.protocol import Pictures, Tokens, check_request

DEFAULT = Sampling(steps=20, guidance=10.0)
"""As diffusers' pipeline; initial pictures by the mode of the autoencoder's posterior."""


class StableUnCLIP:
    """diffusers' StableUnCLIPImg2ImgPipeline as a `Generator`, with an empty prompt.

    Tokens are (batch, 1, dim), CLIP's image embedding as it leaves the projection, not normalised.
    The sampler is UniPC on the pipeline's noise schedule, since the pipeline's own (PNDM) cannot
    start from a picture.

    Args:
        source: folder of the pipeline in the layout of `save_pretrained`, or its name on the
            Hugging Face hub, such as `sd2-community/stable-diffusion-2-1-unclip-small`; only
            safetensors are read.
        sampling: how pictures are drawn.
        noise_level: timestep of the noise that the embedding is given: pictures vary more the
            higher it is.
        device: where to compute.
        dtype: of UNet and autoencoder.

    Raises:
        ImportError: transformers, which the text encoder is of, is not installed.
        InputError: a part is missing, its weights do not fit its config, the parts do not fit each
            other, or there is no such noise level.
    """

    name = "stable-unclip"
    encoder_digest = ""

    def __init__(
        self,
        source: str | Path,
        sampling: Sampling = DEFAULT,
        *,
        noise_level: int = 0,
        device: torch.device | str = "cpu",
        dtype: Precision = "fp32",
    ) -> None:
        from diffusers import DDPMScheduler

        constants = _load_constants(source)
        self._schedule = load_settings(DDPMScheduler, source, "image_noising_scheduler")
        levels = self._schedule.config.num_train_timesteps
        if not 0 <= noise_level < levels:
            raise InputError(f"{source}: got noise level {noise_level}, expected 0..{levels - 1}")
        self._noise_level = noise_level
        self._model = LatentDiffusion(source, "unet", sampling, device=device, dtype=dtype)
        _check_fit(source, self._model.unet_config, constants)
        self.token_shape = (1, constants["mean"].shape[-1])
        self.side = self._model.side
        self.digest = digest_of(
            f"{self.name} {self._model.digest} {noise_level} {describe(self._schedule)}", constants
        )
        self._constants = {key: value.to(self._model.device) for key, value in constants.items()}

    @torch.no_grad()
    def __call__(
        self,
        tokens: Tokens,
        seeds: Sequence[int],
        init: Pictures | None = None,
        strength: float = 1.0,
    ) -> Pictures:
        """Return pictures in [0, 1], (batch, 3, side, side); see `Generator.__call__`.

        Raises:
            InputError: the request does not fit, or half precision made a picture not finite.
        """
        check_request(self, tokens, seeds, init, strength)
        prompt = self._constants["prompt"].expand(len(tokens), -1, -1)
        labels = self._labels(tokens[:, 0].float().to(self._model.device), seeds)
        return self._model.draw(
            {"encoder_hidden_states": prompt, "class_labels": labels},
            {"encoder_hidden_states": prompt, "class_labels": torch.zeros_like(labels)},
            seeds,
            init,
            strength,
        )

    def _labels(
        self, embeddings: Float[Tensor, "batch dim"], seeds: Sequence[int]
    ) -> Float[Tensor, "batch twice_dim"]:
        """Return the noised embedding and, beside it, the sinusoids of its noise level."""
        from diffusers.models.embeddings import get_timestep_embedding

        mean, std = self._constants["mean"], self._constants["std"]
        dim = embeddings.shape[-1]
        noise = self._model.noise((dim,), seeds, "embedding")
        levels = torch.full((len(embeddings),), self._noise_level, device=embeddings.device)
        noised = self._schedule.add_noise((embeddings - mean) / std, noise, levels) * std + mean
        # The pipeline's order: the cosines first, and the lowest frequency 1 / 10000.
        sinusoids = get_timestep_embedding(levels, dim, True, 0)
        return torch.cat([noised, sinusoids], dim=1)


def _load_constants(source: str | Path) -> dict[str, Tensor]:
    """Return `mean` and `std` of embeddings, (1, dim), and the empty `prompt`, (1, words, width).

    The text encoder is not needed any more after that.
    """
    try:
        from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise MissingPackageError(
            "stable-unclip needs a text encoder of transformers: pip install transformers"
        ) from error
    normalizer = load_part(StableUnCLIPImageNormalizer, source, "image_normalizer")
    tokenizer = load_settings(CLIPTokenizer, source, "tokenizer")
    encoder = load_part(CLIPTextModel, source, "text_encoder").eval()
    length = tokenizer.model_max_length
    ids = tokenizer("", padding="max_length", max_length=length, return_tensors="pt").input_ids
    with torch.no_grad():
        prompt = encoder(ids).last_hidden_state
    return {"mean": normalizer.mean.detach(), "std": normalizer.std.detach(), "prompt": prompt}


def _check_fit(source: str | Path, unet: Any, constants: dict[str, Tensor]) -> None:
    """Check that the UNet takes the embedding with its noise level as label, and the prompt."""
    expected = (2 * constants["mean"].shape[-1], constants["prompt"].shape[-1])
    got = (unet.projection_class_embeddings_input_dim, unet.cross_attention_dim)
    if unet.class_embed_type != "projection" or got != expected:
        raise InputError(
            f"{source}/unet: got labels by {unet.class_embed_type!r}, of width {got[0]}, and words "
            f"of width {got[1]}, expected 'projection', {expected[0]} and {expected[1]}"
        )
