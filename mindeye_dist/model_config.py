"""Settings of the models: the section `model` of a run's settings (config.py)."""

from dataclasses import dataclass, field
from typing import Literal

from mindeye_dist.strict import check_counts, check_fractions


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Residual MLP from voxels to tokens (MindEye, section 3.1)."""

    hidden: int = 4096
    """Width of the residual blocks."""
    num_blocks: int = 4
    """Number of residual blocks."""
    input_dropout: float = 0.5
    """Dropout after the first layer (0..1)."""
    block_dropout: float = 0.15
    """Dropout in each residual block (0..1)."""

    def __post_init__(self) -> None:
        check_counts("model.backbone", self, "hidden", "num_blocks")
        check_fractions("model.backbone", self, "input_dropout", "block_dropout")


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """Token-wise MLP in front of the contrastive loss."""

    hidden: int = 2048
    """Width of the hidden layers."""

    def __post_init__(self) -> None:
        check_counts("model.projector", self, "hidden")


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Diffusion prior over clip_tokens (MindEye, section 3.2)."""

    form: Literal["tokens", "query"] = "tokens"
    """`tokens` denoises all tokens at once; `query` is DALL-E 2's prior, for one embedding."""
    padding_tokens: int = 256
    """Learned tokens in front, where a caption would stand (form `query` only)."""
    depth: int = 6
    """Number of transformer layers."""
    heads: int = 12
    """Number of attention heads."""
    head_dim: int = 64
    """Width of an attention head."""
    feedforward_factor: int = 4
    """Width of the feed-forward layers, in multiples of a token's width."""
    timesteps: int = 100
    """Number of steps of the noise schedule, in training and sampling."""
    condition_dropout: float = 0.2
    """Probability of replacing a sample's condition by learned null tokens; likewise its noisy
    tokens."""

    def __post_init__(self) -> None:
        sizes = ("depth", "heads", "head_dim", "feedforward_factor", "timesteps")
        check_counts("model.prior", self, *sizes)
        check_fractions("model.prior", self, "condition_dropout")


@dataclass(frozen=True, kw_only=True)
class LowLevelConfig:
    """Residual MLP and upsampler from voxels to latents (MindEye, section 3.4)."""

    hidden: int = 4096
    """Width of the residual blocks."""
    num_blocks: int = 4
    """Number of residual blocks."""
    input_dropout: float = 0.5
    """Dropout after the first layer (0..1)."""
    block_dropout: float = 0.25
    """Dropout in each residual block (0..1)."""
    map_channels: int = 64
    """Channels of the map between MLP and upsampler."""
    upsampler_channels: tuple[int, ...] = (64, 128, 256)
    """Channels from the latents' resolution down to the map's, halving the side each time."""
    head_hidden: int = 512
    """Width of the head that predicts the teacher's map."""

    def __post_init__(self) -> None:
        check_counts("model.lowlevel", self, "hidden", "num_blocks", "map_channels", "head_hidden")
        check_fractions("model.lowlevel", self, "input_dropout", "block_dropout")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The high-level pipeline (backbone, projector and prior) and the low-level one."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    lowlevel: LowLevelConfig = field(default_factory=LowLevelConfig)
