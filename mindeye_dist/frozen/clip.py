"""CLIP image encoders (Radford et al. 2021): pictures -> the `clip_tokens` of published MindEye.

The visual tower is open_clip's. Weights are read from safetensors only: a local file, or what
open_clip's hub offers for a tag. Neither the text tower nor a pickle is ever loaded.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.encoders import digest_of

PUBLISHED = "ViT-L-14-quickgelu"
"""OpenAI's ViT-L/14: its weights were trained with QuickGELU, x sigmoid(1.702 x)."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
RANDOM = "random"
# What a tower may be made of: CLIP's own ViT, whose token 0 is the picture's embedding.
_PLAIN = {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"}


class ClipTokens:
    """CLIP's visual tower as an `ImageEncoder`.

    All tokens of the last layer go through the post-LayerNorm and the visual projection, and are
    divided by the norm of token 0, as Versatile Diffusion does (Xu et al. 2022) and as MindEye's
    257 x 768 targets are made (Scotti et al. 2023, section 3).

    Args:
        weights: a tag of open_clip's hub ("openai"), the path of a safetensors file with the tower
            (keys `visual.*`, or those without the prefix), or "random" for tests and dry runs.
        architecture: open_clip's name of it. QuickGELU is part of the name; a tag whose weights
            want the other activation is refused, a file cannot say which it wants.
        final: return one token only, CLIP's image embedding: the 1 x 768 targets.
        norm_tokens: divide by the norm of token 0; by default only where there are more tokens.
        antialias: filter when pictures are made smaller. The published targets are not filtered.
        device: where to compute; images are moved there.
        seed: of random weights.

    Raises:
        InputError: the architecture is unknown or no plain ViT, or the weights do not fit it.
    """

    def __init__(  # noqa: PLR0913 - each is another fact of how the targets are made
        self,
        weights: str = "openai",
        *,
        architecture: str = PUBLISHED,
        final: bool = False,
        norm_tokens: bool | None = None,
        antialias: bool = False,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        config = _plain_config(architecture)
        vision = config["vision_cfg"]
        self.side: int = vision["image_size"]
        self.dim: int = config["embed_dim"]
        self.num_tokens = 1 if final else (self.side // vision["patch_size"]) ** 2 + 1
        short = architecture.removesuffix("-quickgelu").lower()
        self.name = f"clip-{short}-final" if final else f"clip-{short}"
        self._final, self._antialias, self._device = final, antialias, device
        self._norm_tokens = not final if norm_tokens is None else norm_tokens
        if weights == RANDOM:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self._tower = _tower(config)
        else:
            with torch.device("meta"):
                self._tower = _tower(config)
            _load(self._tower, _weights_file(weights, architecture, config))
        self._tower.eval().requires_grad_(False)
        constants = (
            f"{architecture} bicubic to {self.side} antialias={antialias} {MEAN} {DEVIATION} "
            f"final={final} norm_tokens={self._norm_tokens}"
        )
        self.digest = digest_of(constants, self._tower.state_dict())
        self._tower.to(device)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Encode images with values in [0, 1] of any size."""
        pixels = preprocess(images.to(self._device), self.side, antialias=self._antialias)
        embedding, patches = self._tower(pixels)
        tokens = embedding[:, None]
        if not self._final:
            tokens = torch.cat([tokens, patches @ self._tower.proj], dim=1)
        if self._norm_tokens:
            norm = tokens[:, :1].norm(dim=-1, keepdim=True)
            tokens = tokens / norm.clamp_min(torch.finfo(tokens.dtype).tiny)
        return tokens


def preprocess(
    images: Float[Tensor, "batch 3 height width"], side: int, *, antialias: bool
) -> Float[Tensor, "batch 3 {side} {side}"]:
    """Scale the short side to `side` (bicubic), cut the middle square out, and normalise.

    Bicubic overshoot is kept, as published: values may lie a little outside of [0, 1] on the way.
    """
    from torchvision.transforms import InterpolationMode  # takes seconds to import
    from torchvision.transforms.v2 import functional

    resized = functional.resize(
        images, [side], interpolation=InterpolationMode.BICUBIC, antialias=antialias
    )
    square = functional.center_crop(resized, [side, side])
    return functional.normalize(square, list(MEAN), list(DEVIATION))


def _plain_config(architecture: str) -> dict[str, Any]:
    """Return open_clip's description of an architecture."""
    import open_clip

    config = open_clip.get_model_config(architecture)
    if config is None:
        raise InputError(f"architecture {architecture!r}: not one of {open_clip.list_models()}")
    other = sorted(set(config["vision_cfg"]) - _PLAIN)
    if other or not isinstance(config["vision_cfg"]["layers"], int):
        raise InputError(
            f"architecture {architecture!r}: expected CLIP's plain ViT, got one with "
            f"{other or 'convolutional layers'}"
        )
    return config


def _tower(config: dict[str, Any]) -> nn.Module:
    from open_clip.transformer import QuickGELU, VisionTransformer

    vision = config["vision_cfg"]
    return VisionTransformer(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision.get("head_width", 64),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        output_dim=config["embed_dim"],
        output_tokens=True,
        act_layer=QuickGELU if config.get("quick_gelu", False) else nn.GELU,
    )


def _weights_file(weights: str, architecture: str, config: dict[str, Any]) -> Path:
    """Return a local file of the weights, downloaded if they are a tag's."""
    if Path(weights).is_file():
        return Path(weights)
    from open_clip.pretrained import (
        download_pretrained,
        get_pretrained_cfg,
        list_pretrained_tags_by_model,
    )

    known = get_pretrained_cfg(architecture, weights)
    if not known:
        tags = list_pretrained_tags_by_model(architecture)
        raise InputError(
            f"weights {weights!r}: neither a file nor one of {architecture}'s tags {tags}"
        )
    wanted, given = known.get("quick_gelu", False), config.get("quick_gelu", False)
    if wanted != given:
        raise InputError(
            f"weights {weights!r} were trained with quick_gelu={wanted}, {architecture} has "
            f"quick_gelu={given}: its other variant has '-quickgelu' in its name, or has not"
        )
    if (tuple(known["mean"]), tuple(known["std"])) != (MEAN, DEVIATION):
        raise InputError(
            f"weights {weights!r} of {architecture} were trained with mean {known['mean']} and "
            f"deviation {known['std']} of pixels, expected CLIP's {MEAN} and {DEVIATION}"
        )
    try:
        return Path(download_pretrained(known, prefer_hf_hub=True))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"weights {weights!r} of {architecture} cannot be had: {error}; a safetensors file of "
            "them may be given instead"
        ) from error


def _load(tower: nn.Module, file: Path) -> None:
    """Fill a tower on the meta device with the float32 weights of a safetensors file."""
    try:
        with safe_open(file, framework="pt") as opened:
            keys = list(opened.keys())
            prefix = "visual." if any(key.startswith("visual.") for key in keys) else ""
            state = {
                key.removeprefix(prefix): opened.get_tensor(key).float()
                for key in keys
                if key.startswith(prefix)
            }
    except SafetensorError as error:
        raise InputError(f"{file} is not a safetensors file: {error}") from error
    try:
        tower.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise InputError(f"{file}: not this tower's weights: {error}") from error
