"""Published weights in: a released `.pth` -> one of our checkpoints.

The file is read by weights-only loading and memory-mapped, since most of its 12 GB is optimizer
state. Every key and every shape must be the published model's, for the subject's number of voxels;
what ours derives from the config (noise schedule, rotary frequencies) must have the same values.
"""

import dataclasses
import math
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mindeye_dist.errors import CheckpointError, InputError
from mindeye_dist.ingest.mindeye1_names import (
    Kind,
    derived_names,
    kind_of,
    our_name,
    published_name,
)
from mindeye_dist.model_config import (
    BackboneConfig,
    LowLevelConfig,
    ModelConfig,
    PriorConfig,
    ProjectorConfig,
)
from mindeye_dist.models.diffusion import cosine_schedule
from mindeye_dist.models.lowlevel import LowLevel
from mindeye_dist.models.mindeye import MindEye
from mindeye_dist.models.prior import ROTARY_DIM
from mindeye_dist.runs.checkpoint_writing import save_tensors
from mindeye_dist.runs.checkpoints import (
    MODEL,
    STATE,
    Progress,
    check_shapes,
    complete_folder,
    rename_durably,
)
from mindeye_dist.simulation.nsd import NSD_VOXELS

TOLERANCE = 1e-4
STATE_DICT = "model_state_dict"
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model, apart from the subject's voxels.

    Attributes:
        model: the config that builds it.
        targets: shape of each kind of target.
    """

    model: ModelConfig
    targets: Shapes


@dataclass(frozen=True)
class Imported:
    """A published model in our names.

    Attributes:
        weights: float32; memory-mapped where the file holds float32.
        compared: published keys that are not stored here, since ours derives their values.
        left_out: entries beside the model's weights that were not read.
    """

    kind: Kind
    num_voxels: int
    sizes: Sizes
    weights: dict[str, Tensor]
    compared: tuple[str, ...]
    left_out: tuple[str, ...]


PUBLISHED_SIZES: dict[Kind, Sizes] = {
    "257x768": Sizes(ModelConfig(), {"clip_tokens": (257, 768)}),
    "1x768": Sizes(
        ModelConfig(
            prior=PriorConfig(form="query", depth=12, timesteps=1000, condition_dropout=0.0)
        ),
        {"clip_tokens": (1, 768)},
    ),
    "autoencoder": Sizes(ModelConfig(), {"latents": (4, 64, 64), "feature_map": (256, 512)}),
}


def import_published(path: Path, num_voxels: int, *, any_size: bool = False) -> Imported:
    """Read a published file of any kind.

    Args:
        path: the `.pth`.
        num_voxels: of the subject whose weights these are to be.
        any_size: take all other sizes from the file's shapes, instead of the published ones.

    Raises:
        CheckpointError: the file is damaged, holds anything but tensors and plain values, is of no
            published kind, or differs from that kind in any key, shape or derived value; the
            message lists every difference.
    """
    tensors, left_out = read_state_dict(path)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        kind = kind_of(found)
        sizes = sizes_of(kind, found) if any_size else PUBLISHED_SIZES[kind]
        expected = published_shapes(kind, num_voxels, sizes)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    try:
        check_shapes(path, found, expected)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_whose(found, num_voxels)}") from error
    derived = derived_values(kind, sizes)
    _check_values(path, tensors, derived)
    weights = {
        str(our_name(name, kind)): tensor.contiguous()
        for name, tensor in tensors.items()
        if name not in derived
    }
    return Imported(kind, num_voxels, sizes, weights, tuple(derived), left_out)


def write_checkpoint(folder: Path, imported: Imported, about: dict[str, Any]) -> None:
    """Write a checkpoint without optimizer state: good for inference, not for going on.

    Args:
        folder: must not exist; it is whole or not there.
        imported: the weights.
        about: what else goes into the folder, by file name, as JSON (see `checkpoint.describe`).

    Raises:
        CheckpointError: the folder exists or cannot be written.
    """
    if folder.exists():
        raise CheckpointError(f"{folder}: exists already, expected a new folder")
    partial = folder.with_name(f".writing-{folder.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_tensors(partial / MODEL, imported.weights)
        complete_folder(partial, {STATE: dataclasses.asdict(Progress()), **about})
        rename_durably(partial, folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return a file's weights without `module.`, and the names of the entries left out.

    Weights are float32; they stay memory-mapped where the file holds float32.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or holds no state dict of dense
            floating-point tensors; the message lists those that are not.
    """
    content = _load(path)
    left_out: tuple[str, ...] = ()
    if isinstance(content, Mapping) and STATE_DICT in content:
        left_out = tuple(str(name) for name in content if name != STATE_DICT)
        content = content[STATE_DICT]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path}: got a {type(content).__name__}, expected {STATE_DICT} or weights by name"
        )
    strange = [
        str(name)
        for name, value in content.items()
        if not (isinstance(value, Tensor) and value.is_floating_point() and isinstance(name, str))
    ]
    if strange:
        raise CheckpointError(f"{path}: no floating-point tensors: {', '.join(strange)}")
    if thin := [f"{name} ({_form(value)})" for name, value in content.items() if _form(value)]:
        raise CheckpointError(f"{path}: expected dense tensors with values, got {', '.join(thin)}")
    try:
        # Detached, since a file may hold parameters; a tensor of float32 is not copied.
        tensors = {
            name.removeprefix("module."): value.detach().float() for name, value in content.items()
        }
    except NotImplementedError as error:
        raise CheckpointError(f"{path}: has a type that cannot be widened: {error}") from error
    if len(tensors) != len(content):
        raise CheckpointError(f"{path}: holds keys both with and without the prefix module.")
    return tensors, left_out


def _form(value: Tensor) -> str:
    """Say what keeps a tensor from being a plain array, nothing if it is one."""
    if value.is_nested:
        return "nested"
    if value.layout != torch.strided:
        return str(value.layout).removeprefix("torch.")
    if value.is_meta:
        return "without values"
    return "" if value.numel() else "empty"


def published_shapes(kind: Kind, num_voxels: int, sizes: Sizes | None = None) -> Shapes:
    """Return every key of a published state dict with its shape, by default at published sizes."""
    sizes = sizes or PUBLISHED_SIZES[kind]
    with torch.device("meta"):
        state = build(kind, num_voxels, sizes).state_dict()
    shapes = {published_name(name, kind): tuple(value.shape) for name, value in state.items()}
    return shapes | {name: value.shape for name, value in derived_values(kind, sizes).items()}


def build(kind: Kind, num_voxels: int, sizes: Sizes) -> nn.Module:
    """Return our module that a published model's weights fit."""
    if kind == "autoencoder":
        channels, height, width = sizes.targets["latents"]
        feature_dim = sizes.targets["feature_map"][1]
        return LowLevel(sizes.model.lowlevel, num_voxels, (channels, height, width), feature_dim)
    return MindEye(sizes.model, num_voxels, *sizes.targets["clip_tokens"])


def derived_values(kind: Kind, sizes: Sizes) -> dict[str, Float[np.ndarray, " entries"]]:
    """Return the values that published files store and this project derives, by published key."""
    if kind == "autoencoder":
        return {}
    prior = sizes.model.prior
    width = min(ROTARY_DIM, prior.head_dim)
    rotary = 10000.0 ** (-np.arange(0, width, 2) / width)
    tables = schedule_tables(prior.timesteps)
    return {
        name: tables.get(name.removeprefix("noise_scheduler."), rotary)
        for name in derived_names(prior.depth)
    }


def schedule_tables(timesteps: int) -> dict[str, Float[np.ndarray, " timesteps"]]:
    """Return the published noise schedule's tables by name (Nichol and Dhariwal 2021)."""
    schedule = cosine_schedule(timesteps)
    kept = schedule.alphas_cumprod
    before = np.concatenate([[1.0], kept[:-1]])
    betas = 1 - kept / before
    return {
        "betas": betas,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(kept),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - kept),
        "log_one_minus_alphas_cumprod": np.log(1 - kept),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / kept),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / kept - 1),
        "posterior_variance": betas * (1 - before) / (1 - kept),
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
        "posterior_mean_coef1": schedule.posterior_mean_x_0,
        "posterior_mean_coef2": schedule.posterior_mean_x_t,
        "p2_loss_weight": np.ones(timesteps),
    }


def sizes_of(kind: Kind, shapes: Shapes) -> Sizes:
    """Return the sizes that a state dict's shapes tell.

    Raises:
        InputError: a shape that tells a size is missing or has fewer axes.
    """
    return _lowlevel_sizes(shapes) if kind == "autoencoder" else _highlevel_sizes(kind, shapes)


def _highlevel_sizes(kind: Kind, shapes: Shapes) -> Sizes:
    layer = "net.causal_transformer.layers.0."
    hidden = _side(shapes, "voxel2clip.lin1.weight", 1)
    dim = _side(shapes, "voxel2clip.projector.0.weight", 0)
    published = PUBLISHED_SIZES[kind].model.prior
    prior = PriorConfig(
        form=published.form,
        padding_tokens=_side(shapes, "net.null_text_encodings", 1)
        if published.form == "query"
        else published.padding_tokens,
        depth=_count(shapes, "net.causal_transformer.layers.#.0.null_kv"),
        heads=_side(
            shapes, "net.causal_transformer.rel_pos_bias.relative_attention_bias.weight", 1
        ),
        head_dim=_side(shapes, f"{layer}0.null_kv", 1),
        feedforward_factor=_side(shapes, f"{layer}1.5.weight", 1) // dim,
        timesteps=_side(shapes, "noise_scheduler.betas", 0),
        condition_dropout=published.condition_dropout,
    )
    model = ModelConfig(
        backbone=BackboneConfig(
            hidden=hidden, num_blocks=_count(shapes, "voxel2clip.mlp.#.0.weight")
        ),
        projector=ProjectorConfig(hidden=_side(shapes, "voxel2clip.projector.2.weight", 0)),
        prior=prior,
    )
    return Sizes(model, {"clip_tokens": (_side(shapes, "voxel2clip.lin1.weight", 0) // dim, dim)})


def _lowlevel_sizes(shapes: Shapes) -> Sizes:
    stages = _count(shapes, "upsampler.up_blocks.#.resnets.0.conv1.weight")
    # Counted from the map up, our config from the latents down.
    channels = tuple(
        _side(shapes, f"upsampler.up_blocks.{stage}.resnets.0.conv1.weight", 0)
        for stage in reversed(range(stages))
    )
    map_channels = _side(shapes, "norm.weight", 0)
    cells = _side(shapes, "lin1.weight", 0) // map_channels
    side = math.isqrt(cells) * 2 ** (stages - 1)
    config = LowLevelConfig(
        hidden=_side(shapes, "lin1.weight", 1),
        num_blocks=_count(shapes, "mlp.#.0.weight"),
        map_channels=map_channels,
        upsampler_channels=channels,
        head_hidden=_side(shapes, "maps_projector.0.weight", 0),
    )
    latents = (_side(shapes, "upsampler.conv_out.weight", 0), side, side)
    feature_map = (cells, _side(shapes, "maps_projector.6.weight", 0))
    return Sizes(ModelConfig(lowlevel=config), {"latents": latents, "feature_map": feature_map})


def _side(shapes: Shapes, name: str, axis: int) -> int:
    if name not in shapes or len(shapes[name]) <= axis:
        raise InputError(
            f"{name}: got {shapes.get(name)}, expected a shape whose axis {axis} counts"
        )
    return shapes[name][axis]


def _count(shapes: Shapes, template: str) -> int:
    pattern = re.compile(re.escape(template).replace(re.escape("#"), r"\d+"))
    return sum(1 for name in shapes if pattern.fullmatch(name))


def _load(path: Path) -> object:
    try:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path}: {path.stat().st_size} bytes that are no whole file of torch.save: "
                "cut short, or of another format"
            )
        # torch does not look at the checksums.
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: damaged: {damaged} is not what its checksum says")
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        if strange := torch.serialization.get_unsafe_globals_in_checkpoint(str(path)):
            raise CheckpointError(
                f"{path}: holds {', '.join(sorted(strange))}, expected tensors and plain values"
            )
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:
        # A stream of foreign bytes can fail at any point, and torch's own error is the pickle
        # module's, which nothing here imports.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error


def _whose(found: Shapes, num_voxels: int) -> str:
    """Say whose weights these are, if not the subject's."""
    weight = found.get("voxel2clip.lin0.0.weight") or found.get("lin0.0.weight") or ()
    if len(weight) != 2 or weight[1] == num_voxels:
        return ""
    names = [subject for subject, count in NSD_VOXELS.items() if count == weight[1]]
    owner = f" like {names[0]} of NSD" if names else ""
    return f"; the weights are of {weight[1]} voxels{owner}, the subject has {num_voxels}"


def _check_values(
    path: Path, tensors: Mapping[str, Tensor], derived: Mapping[str, np.ndarray]
) -> None:
    problems = [
        f"{name} differs from the model's by up to {np.abs(tensors[name].numpy() - values).max():g}"
        for name, values in derived.items()
        if not np.allclose(tensors[name].numpy(), values, rtol=TOLERANCE, atol=TOLERANCE)
    ]
    problems += [
        f"{name} is not finite" for name, value in tensors.items() if not _is_finite(value)
    ]
    if problems:
        raise CheckpointError(f"{path}: " + "; ".join(problems))


def _is_finite(value: Tensor) -> bool:
    # Smallest and largest are NaN where any value is; no copy of a large tensor is made.
    return bool(torch.stack(value.aminmax()).isfinite().all())
