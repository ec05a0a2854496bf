"""Predictor: a checkpoint -> voxels in, embeddings and tokens out; the only way from voxels.

What is evaluated is what is served. `embed` gives the projector's tokens, flattened, for retrieval;
`tokens` samples the diffusion prior for reconstruction (Scotti et al. 2023, section 3).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mindeye_dist.checkpoint import (
    check_shapes,
    read_config,
    read_shapes,
    read_weights,
    verify,
)
from mindeye_dist.models.diffusion import sample_ddpm
from mindeye_dist.models.mindeye import MindEye
from mindeye_dist.randomness import torch_generator


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
        shapes = self.shapes
        model = MindEye(self.config.model, shapes.num_voxels, shapes.num_tokens, shapes.dim)
        weights = read_weights(path)
        check_shapes(
            path,
            {name: tuple(tensor.shape) for name, tensor in weights.items()},
            {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        )
        model.load_state_dict(weights)
        self.model = model.to(self.device).eval()

    @torch.no_grad()
    def embed(
        self, voxels: Float[np.ndarray, "brains voxels"]
    ) -> Float[np.ndarray, "brains features"]:
        """Return unit-norm embeddings, to be compared with flattened clip_tokens by cosine.

        Raises:
            ValueError: voxels of another number, or not finite.
        """
        parts = []
        for batch in self._batches(voxels):
            projected = self.model.projector(self.model.backbone(batch)).flatten(1)
            parts.append(torch.nn.functional.normalize(projected, dim=-1).cpu().numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def tokens(
        self, voxels: Float[np.ndarray, "brains voxels"], seeds: Sequence[int]
    ) -> Float[np.ndarray, "brains tokens dim"]:
        """Return one sample of the prior a brain, token 0 of unit norm.

        Each brain has a seed of its own, so a sample does not depend on what else is in the batch.

        Raises:
            ValueError: voxels of another number, or not finite; seeds of another number than
                brains.
        """
        if len(seeds) != len(voxels):
            raise ValueError(
                f"seeds: got {len(seeds)}, expected one for each of {len(voxels)} brains"
            )
        parts = []
        for number, batch in enumerate(self._batches(voxels)):
            first = number * self.batch_size
            sample = self._sample(self.model.backbone(batch), seeds[first : first + len(batch)])
            parts.append((sample / sample[:, :1].norm(dim=-1, keepdim=True)).cpu().numpy())
        return np.concatenate(parts)

    def _sample(
        self, condition: Float[Tensor, "batch tokens dim"], seeds: Sequence[int]
    ) -> Float[Tensor, "batch tokens dim"]:
        generators = [torch_generator(self.device, seed, "sample") for seed in seeds]
        shape = condition.shape[1:]

        def predict_x_0(x_t: Tensor, timestep: Tensor) -> Tensor:
            return self.model.prior(x_t, timestep, condition)

        def noise(step: int) -> Tensor:
            return torch.stack(
                [torch.randn(shape, generator=g, device=self.device) for g in generators]
            )

        return sample_ddpm(self.model.prior.schedule, predict_x_0, noise)

    def _batches(self, voxels: np.ndarray) -> Sequence[torch.Tensor]:
        expected = self.shapes.num_voxels
        if voxels.ndim != 2 or voxels.shape[1] != expected:
            raise ValueError(
                f"voxels: got shape {voxels.shape}, expected (brains, {expected}) "
                f"for {self.config.data.subject}"
            )
        if len(voxels) == 0:
            raise ValueError("voxels: got no brains, expected at least one")
        if not np.isfinite(voxels).all():
            raise ValueError(
                f"voxels: {np.count_nonzero(~np.isfinite(voxels))} values are not finite"
            )
        return torch.from_numpy(voxels.astype(np.float32)).to(self.device).split(self.batch_size)
