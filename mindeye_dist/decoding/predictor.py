"""Predictor: a checkpoint -> voxels in; embeddings, tokens or latents out. The only way there is.

What is evaluated is what is served. A high-level checkpoint gives `embed`, the projector's tokens,
flattened, for retrieval, and `tokens`, samples of the diffusion prior for reconstruction; a
low-level one gives `latents` of a blurry picture (Scotti et al. 2023, section 3).
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
        path: folder of a checkpoint; verified against its digests before anything is read.
        device: where to compute.
        batch_size: brains at once.

    Raises:
        CheckpointError: the checkpoint is not whole or does not fit its own config.
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

    @torch.no_grad()
    def embed(
        self, voxels: Float[np.ndarray, "brains voxels"]
    ) -> Float[np.ndarray, "brains features"]:
        """Return unit-norm embeddings, to be compared with flattened clip_tokens by cosine.

        Raises:
            InputError: voxels of another number, or not finite; a low-level checkpoint.
        """
        parts = []
        model = self._model(MindEye, "embed")
        for batch in self._batches(voxels):
            projected = model.projector(model.backbone(batch)).flatten(1)
            parts.append(torch.nn.functional.normalize(projected, dim=-1).cpu().numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def tokens(
        self, voxels: Float[np.ndarray, "brains voxels"], seeds: Sequence[int]
    ) -> Float[np.ndarray, "brains tokens dim"]:
        """Return one sample of the prior a brain, in the scale of the targets.

        Several tokens are divided by the norm of token 0, which is then 1; a single one keeps its
        length, as the published 1 x 768 targets keep theirs. Each brain has a seed of its own, so a
        sample does not depend on what else is in the batch.

        Raises:
            InputError: voxels of another number, or not finite; seeds of another number than
                brains.
        """
        if len(seeds) != len(voxels):
            raise InputError(
                f"seeds: got {len(seeds)}, expected one for each of {len(voxels)} brains"
            )
        model, parts = self._model(MindEye, "tokens"), []
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
        """Return the latents of a blurry picture for each brain.

        Raises:
            InputError: voxels of another number, or not finite; a high-level checkpoint.
        """
        model = self._model(LowLevel, "latents")
        parts = [model.latents(batch).cpu().numpy() for batch in self._batches(voxels)]
        return np.concatenate(parts)

    def _model(self, kind: type[M], what: str) -> M:
        if not isinstance(self.model, kind):
            raise InputError(
                f"{what}: {self.path} is a checkpoint of the {self.config.pipeline} pipeline"
            )
        return self.model

    def _sample(
        self, model: MindEye, voxels: Float[Tensor, "batch voxels"], seeds: Sequence[int]
    ) -> Float[Tensor, "batch tokens dim"]:
        condition = model.backbone(voxels)
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
        expected = self.shapes.num_voxels
        if voxels.ndim != 2 or voxels.shape[1] != expected:
            raise InputError(
                f"voxels: got shape {voxels.shape}, expected (brains, {expected}) "
                f"for {self.config.data.subject}"
            )
        if len(voxels) == 0:
            raise InputError("voxels: got no brains, expected at least one")
        if not np.isfinite(voxels).all():
            raise InputError(
                f"voxels: {np.count_nonzero(~np.isfinite(voxels))} values are not finite"
            )
        return torch.from_numpy(voxels.astype(np.float32)).to(self.device).split(self.batch_size)


def check_pipeline(predictor: Predictor, pipeline: Literal["highlevel", "lowlevel"]) -> None:
    """See that a checkpoint is of a pipeline.

    Raises:
        DataError: it is of the other one.
    """
    if predictor.config.pipeline != pipeline:
        raise DataError(
            f"{predictor.path}: is of the {predictor.config.pipeline} pipeline, expected the "
            f"{pipeline} one"
        )


def check_codec(predictor: Predictor, codec: LatentCodec) -> None:
    """See that a codec is the one whose latents a low-level checkpoint predicts.

    Raises:
        DataError: it is another one.
    """
    trained = predictor.shapes.targets["latents"]
    if codec.digest != trained.digest:
        raise DataError(
            f"{predictor.path}: latents {predictor.config.data.latents!r} are by {trained}, "
            f"the codec given is {codec.name} {codec.digest[:12]}"
        )
