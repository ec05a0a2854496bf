"""Versatile Diffusion (Xu et al. 2022), the generator of published MindEye.

Its 257 x 768 tokens are CLIP's of a picture (Scotti et al. 2023, section 3.3 and appendix). The
published code runs the dual-guided pipeline with a mixing ratio of 0, where the text's transformer
has weight 0: what is left is the image UNet alone, which is all that is loaded here.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.encoders import digest_of
from mindeye_dist.frozen.pretrained import load_part, load_settings
from mindeye_dist.generators.config import Precision
from mindeye_dist.generators.latent_diffusion import LatentDiffusion, Sampling
from mindeye_dist.generators.protocol import Pictures, Tokens, check_request

PUBLISHED = Sampling(
    steps=20,
    guidance=3.5,
    last_sigma="sigma_min",
    init_normalisation="clip",
    posterior="sample",
)
"""As published, with the quirks that are not in the paper: the last step ends at the noise of
timestep 0 (the sampler of its day did), initial pictures are normalised as CLIP's, not as the
autoencoder's, and their latents are drawn from the posterior. `strength` was 0.85."""


class VersatileDiffusion:
    """The image branch of Versatile Diffusion as a `Generator`.

    Guidance leads away from tokens of zeros, as published; Versatile Diffusion's own pipelines
    take those of a grey picture.

    Args:
        source: folder of the pipeline in the layout of `save_pretrained`, or its name on the
            Hugging Face hub. Only safetensors are read; `shi-labs/versatile-diffusion` has none:
            `jobs/import_versatile.py` makes them.
        sampling: how pictures are drawn.
        device: where to compute.
        dtype: of the networks.

    Raises:
        InputError: a part is missing, it has no safetensors, its weights do not fit its config,
            or it is of the dual-guided pipeline.
    """

    name = "versatile-diffusion"
    encoder_digest = ""

    def __init__(
        self,
        source: str | Path,
        sampling: Sampling = PUBLISHED,
        *,
        device: torch.device | str = "cpu",
        dtype: Precision = "fp32",
    ) -> None:
        for part in ("image_unet", "vae"):
            folder = Path(source, part)
            if folder.is_dir() and not any(folder.glob("*.safetensors")):
                raise InputError(
                    f"{folder}: has no safetensors; `python jobs/import_versatile.py {source} "
                    "--out FOLDER` makes them of .bin weights"
                )
        self._model = LatentDiffusion(source, "image_unet", sampling, device=device, dtype=dtype)
        config = self._model.unet_config
        if config.dual_cross_attention:
            raise InputError(
                f"{source}/image_unet: got the UNet of VersatileDiffusionDualGuidedPipeline, which "
                "takes text too, expected that of VersatileDiffusionPipeline"
            )
        self.token_shape = (257, config.cross_attention_dim)
        self.side = self._model.side
        self.digest = digest_of(f"{self.name} {self._model.digest} zeros", {})

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
        return self._model.draw(
            {"encoder_hidden_states": tokens},
            {"encoder_hidden_states": torch.zeros_like(tokens)},
            seeds,
            init,
            strength,
        )


def convert(source: str | Path, folder: Path) -> None:
    """Convert the parts of a pipeline that `VersatileDiffusion` reads from `.bin` to safetensors.

    The pickles are read by torch's weights-only loader, which runs none of their code.

    Args:
        source: folder of the pipeline, or its name on the Hugging Face hub.
        folder: where to write.

    Raises:
        InputError: a part is missing or its weights do not fit its config.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel, UniPCMultistepScheduler

    for kind, part in ((UNet2DConditionModel, "image_unet"), (AutoencoderKL, "vae")):
        network = load_part(kind, source, part, safetensors=False)
        network.save_pretrained(folder / part)
    load_settings(UniPCMultistepScheduler, source, "scheduler").save_pretrained(
        folder / "scheduler"
    )
