"""Networks by whose features reconstructions are judged (Scotti et al. 2023, section 4.2).

Each turns pictures into one vector a picture: a layer of AlexNet, InceptionV3, EfficientNet-B1 or
SwAV's ResNet-50, CLIP's image embedding, and, for machines without any of these weights,
EfficientNet-Lite0's pooled vector. Pictures are scaled to each network's side, bilinearly and, as
published, without antialias; nothing is cropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.clip import ClipTokens
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.teachers import IMAGENET_MEAN, IMAGENET_STD

HUB = "hub"
"""In place of a file of weights: where torchvision, open_clip or SwAV's authors publish them."""
SWAV_URL = "https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar"
# Of SwAV's training, and of a ResNet-50's classifier: behind the layer that is read.
_SWAV_HEADS = ("projection_head.", "prototypes.", "fc.")
CLIP_SIDE = 224

Score = Literal["two_way", "distance"]
Pictures = Float[Tensor, "batch 3 _ _"]
Vectors = Float[Tensor, "batch features"]


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A layer of a network and how reconstructions are scored by it.

    Attributes:
        key: its row in `picture_scores.METRICS`.
        label: what reports call it.
        score: two-way identification or correlation distance.
        features: from pictures in [0, 1] to the layer's values, one row a picture. Networks with
            an equal function are run once for all of them.
    """

    key: str
    label: str
    score: Score
    features: Callable[[Pictures], Vectors]


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer that is published as a metric, and the side its network sees (pixels)."""

    label: str
    score: Score
    side: int


_LAYERS = {
    "alexnet2": _Layer(label="AlexNet(2)", score="two_way", side=256),
    "alexnet5": _Layer(label="AlexNet(5)", score="two_way", side=256),
    "inception": _Layer(label="Inception", score="two_way", side=342),
    "clip": _Layer(label="CLIP", score="two_way", side=CLIP_SIDE),
    "efficientnet_b1": _Layer(label="EffNet-B", score="distance", side=255),
    "swav": _Layer(label="SwAV", score="distance", side=224),
}


def open_network(
    key: str, weights: str, device: torch.device | str = "cpu", *, antialias: bool = False
) -> FeatureNetwork:
    """Return a published network with its weights.

    Args:
        key: alexnet2, alexnet5, inception, clip, efficientnet_b1 or swav; EfficientNet-Lite0 has a
            function of its own.
        weights: a safetensors file or one of torch's with the whole network's state dict, under
            torchvision's names (clip: see `ClipTokens`; swav: the published file, or a ResNet-50);
            or "hub" to download what is published.
        device: where to compute; pictures are moved there.
        antialias: filter when pictures are made smaller. The published scores are not filtered.

    Raises:
        InputError: there is no such network, or its weights cannot be had or are another one's.
    """
    if key not in _LAYERS:
        raise InputError(f"got network {key!r}, expected one of {', '.join(_LAYERS)}")
    layer = _LAYERS[key]
    if key == "clip":
        tower = ClipTokens("openai" if weights == HUB else weights, final=True, device=device)
        features = image_embedding(tower, antialias=antialias)
    else:
        state = _download(key) if weights == HUB else _read(key, Path(weights))
        features = _layer_values(
            _network(key, state).to(device), layer.side, device, antialias=antialias
        )
    return FeatureNetwork(key=key, label=layer.label, score=layer.score, features=features)


def open_lite0(
    weights: str = "", device: torch.device | str = "cpu"
) -> tuple[FeatureNetwork, FeatureNetwork]:
    """Return EfficientNet-Lite0's pooled vector by both scores; pictures are encoded once for both.

    Args:
        weights: `efficientnet-lite0-57934424.pth`; by default that of the optional package.
        device: where to compute; pictures are moved there.

    Raises:
        ImportError: no file is given and the package is not installed.
        InputError: the file is not there, or is another network's.
    """
    path = Path(weights) if weights else efficientnet_lite0_weights()
    if not path.is_file():
        raise InputError(f"lite0: weights {str(path)!r}: no such file")
    if path.suffix == ".safetensors":
        raise InputError(f"lite0: weights {str(path)!r}: expected the published .pth")
    _read("lite0", path)  # says what is no file of weights at all
    try:
        encoder = EfficientNetLite0(path, device=device)
    except RuntimeError as error:  # of another network
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as EfficientNet-Lite0's: {reason}") from error

    def pooled(images: Pictures) -> Vectors:
        return encoder(images)[:, 0]

    label = "EffNet-Lite0"
    return (
        FeatureNetwork(key="lite0_two_way", label=label, score="two_way", features=pooled),
        FeatureNetwork(key="lite0_distance", label=label, score="distance", features=pooled),
    )


def image_embedding(tower: ClipTokens, *, antialias: bool) -> Callable[[Pictures], Vectors]:
    """Return the function from pictures to CLIP's image embeddings, scaled bilinearly first."""

    def features(images: Pictures) -> Vectors:
        # At CLIP's own side its bicubic resize and its crop leave pictures as they are.
        return tower(resize(images, CLIP_SIDE, antialias=antialias))[:, 0]

    return features


def resize(
    images: Pictures, side: int, *, antialias: bool = False
) -> Float[Tensor, "batch 3 {side} {side}"]:
    """Scale pictures to `side` x `side`, bilinearly."""
    return functional.interpolate(
        images.float(), (side, side), mode="bilinear", antialias=antialias
    )


def _layer_values(
    network: nn.Module, side: int, device: torch.device | str, *, antialias: bool
) -> Callable[[Pictures], Vectors]:
    mean = torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=device)[:, None, None]

    @torch.no_grad()
    def features(images: Pictures) -> Vectors:
        pixels = resize(images.to(device), side, antialias=antialias)
        return network((pixels - mean) / std).flatten(1)

    return features


def _network(key: str, state: dict[str, Tensor]) -> nn.Module:
    """Return a network with these weights, cut off behind the layer that is read."""
    from torchvision import models

    network: Any  # whose parts are known by name
    with torch.device("meta"):
        if key in ("alexnet2", "alexnet5"):
            network = models.alexnet()
        elif key == "inception":
            # Its weights are TensorFlow's, which saw pixels of another scale.
            network = models.inception_v3(transform_input=True, init_weights=False)
        elif key == "efficientnet_b1":
            network = models.efficientnet_b1()
        else:
            network = models.resnet50()
            network.fc = nn.Identity()
            renamed = {name.removeprefix("module."): value for name, value in state.items()}
            state = {
                name: value for name, value in renamed.items() if not name.startswith(_SWAV_HEADS)
            }
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{key}: not this network's weights: {reason}") from error
    return _without_head(key, network).float().eval().requires_grad_(False)


def _without_head(key: str, network: Any) -> nn.Module:
    if key == "alexnet2":
        return cast(nn.Module, network.features[:5])
    if key == "alexnet5":
        return cast(nn.Module, network.features[:12])
    if key == "inception":
        network.dropout, network.fc = nn.Identity(), nn.Identity()
    elif key == "efficientnet_b1":
        network.classifier = nn.Identity()
    return cast(nn.Module, network)


def _download(key: str) -> dict[str, Tensor]:
    from torchvision import models

    url = {
        "alexnet2": models.AlexNet_Weights.IMAGENET1K_V1.url,
        "alexnet5": models.AlexNet_Weights.IMAGENET1K_V1.url,
        "inception": models.Inception_V3_Weights.IMAGENET1K_V1.url,
        "efficientnet_b1": models.EfficientNet_B1_Weights.IMAGENET1K_V2.url,
        "swav": SWAV_URL,
    }[key]
    if url == SWAV_URL:
        # torchvision's file names end in their digest, SwAV's does not.
        raise InputError(
            f"{key}: weights {HUB!r} cannot be had from {url}: no digest to verify them by is "
            "published; a file of them may be given instead"
        )
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{key}: weights {HUB!r} cannot be had from {url}: {error}; a file of them may be "
            "given instead"
        ) from None


def _read(key: str, path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{key}: weights {str(path)!r}: no such file, expected one or {HUB!r}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Foreign bytes can fail at any point, and torch's own error is the pickle module's.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: cannot be read as weights: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: expected tensors by name, got {type(state).__name__}")
    return state
