"""Predictor: inference with a checkpoint, the same for evaluation, batch jobs and the service.

In: voxels (brains, voxels). Out, from a high-level checkpoint: `embed`, the projector's flattened
output (brains, tokens * dim) for retrieval, and `tokens`, samples of the diffusion prior (brains,
tokens, dim) for reconstruction; from a low-level one: `latents` of a blurry picture. A "brain" is
one row of voxels, the response to one picture. Scotti et al. (2023), section 3.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mindeye_dist.errors import DataError, InputError
from mindeye_dist.frozen.codecs import LatentCodec
from mindeye_dist.models.build import build_model
from mindeye_dist.models.diffusion import sample_ddpm
from mindeye_dist.models.lowlevel import LowLevel
from mindeye_dist.models.mindeye import MindEye
from mindeye_dist.randomness import torch_generator
from mindeye_dist.runs.checkpoints import (
    check_shapes,
    read_config,
    read_shapes,
    read_weights,
    verify,
)

M = TypeVar("M", bound=nn.Module)


class Predictor:
    """A trained model on one device.

    Args:
        path: folder of a checkpoint; its digests are verified before anything is read.
        device: torch device, such as "cpu" or "cuda".
        batch_size: brains per forward pass.

    Raises:
        CheckpointError: the checkpoint is incomplete or damaged, or its weights do not have the
            shapes that its config asks for.
    """

    def __init__(self, path: Path, device: str = "cpu", batch_size: int = 64) -> None:
        verify(path)
        self.path = path
        self.config = read_config(path)
        self.shapes = read_shapes(path)
        self.device = torch.device(device)
        self.batch_size = batch_size
        model = build_model(self.config, self.shapes)
        weights = read_weights(path)
        check_shapes(
            path,
            {name: tuple(tensor.shape) for name, tensor in weights.items()},
            {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        )
        model.load_state_dict(weights)
        self.model: nn.Module = model.to(self.device).eval()

    @property
    def subject(self) -> str:
        """Name of the subject that the model was trained on."""
        return self.config.data.subject

    @property
    def num_voxels(self) -> int:
        """Number of voxels that the model takes."""
        return self.shapes.num_voxels

    @torch.no_grad()
    def embed(
        self, voxels: Float[np.ndarray, "brains voxels"]
    ) -> Float[np.ndarray, "brains features"]:
        """Return unit-norm embeddings, to be compared with flattened clip_tokens by cosine.

        Raises:
            InputError: the voxels are of another number or not finite; the checkpoint is low-level.
        """
        parts = []
        model = self._checked_model(MindEye, "embed")
        for batch in self._batches(voxels):
            projected = model.projector(model.tokens(batch)).flatten(1)
            parts.append(torch.nn.functional.normalize(projected, dim=-1).cpu().numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def tokens(
        self, voxels: Float[np.ndarray, "brains voxels"], seeds: Sequence[int]
    ) -> Float[np.ndarray, "brains tokens dim"]:
        """Sample the diffusion prior once per brain; the tokens have the scale of the targets.

        Several tokens are divided by the norm of token 0, which is then 1; a single token keeps its
        norm, as the published 1 x 768 targets do. Each brain has its own seed, so a sample does not
        depend on the rest of the batch.

        Raises:
            InputError: the voxels are of another number or not finite; there are not as many seeds
                as brains; the checkpoint is low-level.
        """
        if len(seeds) != len(voxels):
            raise InputError(
                f"seeds: got {len(seeds)}, expected one for each of {len(voxels)} brains"
            )
        model, parts = self._checked_model(MindEye, "tokens"), []
        for number, batch in enumerate(self._batches(voxels)):
            first = number * self.batch_size
            sample = self._sample(model, batch, seeds[first : first + len(batch)])
            sample = sample / model.prior.scale
            if sample.shape[1] > 1:
                sample = sample / sample[:, :1].norm(dim=-1, keepdim=True)
            parts.append(sample.cpu().numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def latents(
        self, voxels: Float[np.ndarray, "brains voxels"]
    ) -> Float[np.ndarray, "brains channels height width"]:
        """Return the predicted latents of a blurry picture for each brain.

        Raises:
            InputError: the voxels are of another number or not finite; the checkpoint is
                high-level.
        """
        model = self._checked_model(LowLevel, "latents")
        parts = [model.latents(batch).cpu().numpy() for batch in self._batches(voxels)]
        return np.concatenate(parts)

    def _checked_model(self, kind: type[M], method: str) -> M:
        if not isinstance(self.model, kind):
            raise InputError(
                f"{method}: {self.path} is a checkpoint of the {self.config.pipeline} pipeline"
            )
        return self.model

    def _sample(
        self, model: MindEye, voxels: Float[Tensor, "batch voxels"], seeds: Sequence[int]
    ) -> Float[Tensor, "batch tokens dim"]:
        condition = model.tokens(voxels)
        generators = [torch_generator(self.device, seed, "sample") for seed in seeds]
        shape = condition.shape[1:]

        def predict_x_0(x_t: Tensor, timestep: Tensor) -> Tensor:
            return model.prior(x_t, timestep, condition)

        def noise(step: int) -> Tensor:
            return torch.stack(
                [torch.randn(shape, generator=g, device=self.device) for g in generators]
            )

        return sample_ddpm(model.prior.schedule, predict_x_0, noise)

    def _batches(self, voxels: np.ndarray) -> Sequence[torch.Tensor]:
        if voxels.ndim != 2 or voxels.shape[1] != self.num_voxels:
            raise InputError(
                f"voxels: got shape {voxels.shape}, expected (brains, {self.num_voxels}) "
                f"for {self.subject}"
            )
        if len(voxels) == 0:
            raise InputError("voxels: got no brains, expected at least one")
        if not np.isfinite(voxels).all():
            raise InputError(
                f"voxels: {np.count_nonzero(~np.isfinite(voxels))} values are not finite"
            )
        return torch.from_numpy(voxels.astype(np.float32)).to(self.device).split(self.batch_size)


def check_pipeline(predictor: Predictor, pipeline: Literal["highlevel", "lowlevel"]) -> None:
    """Check that a checkpoint belongs to the given pipeline.

    Raises:
        DataError: the checkpoint belongs to the other pipeline.
    """
    if predictor.config.pipeline != pipeline:
        raise DataError(
            f"{predictor.path}: is of the {predictor.config.pipeline} pipeline, expected the "
            f"{pipeline} one"
        )


def check_codec(predictor: Predictor, codec: LatentCodec) -> None:
    """Check that a low-level checkpoint was trained on the latents of this codec.

    Raises:
        DataError: the checkpoint was trained on the latents of another codec.
    """
    trained = predictor.shapes.targets["latents"]
    if codec.digest != trained.digest:
        raise DataError(
            f"{predictor.path}: latents {predictor.config.data.latents!r} are by {trained}, "
            f"the codec given is {codec.name} {codec.digest[:12]}"
        )
