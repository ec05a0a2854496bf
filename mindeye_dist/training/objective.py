"""Objectives: outputs and targets -> named losses and their weighted sum, for train and validation.

Each pipeline has one objective with the same interface. Every rank sees the whole global batch, so
losses and negatives do not depend on the number of workers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mindeye_dist.batch import Batch
from mindeye_dist.config import ExperimentConfig, mixco_epochs
from mindeye_dist.distributed import gather
from mindeye_dist.metrics import DIRECTIONS, ranks, top_k
from mindeye_dist.models.lowlevel import LowLevelOutputs
from mindeye_dist.models.mindeye import Outputs
from mindeye_dist.training.draws import Mixing, draw_prior
from mindeye_dist.training.losses import (
    bimixco,
    cosine_similarity,
    latent_errors,
    mix,
    prior_errors,
    soft_clip,
    soft_contrastive,
    soft_temperature,
)

Losses = dict[str, Float[Tensor, ""]]
"""Losses of one global batch by name; `total` is minimised."""


@runtime_checkable
class Objective(Protocol):
    """Interface between the trainer and a pipeline's losses and scores."""

    def mixes(self, epoch: int) -> bool:
        """Return whether voxels are mixed in this epoch of training."""

    def temperature(self, epoch: int) -> float:
        """Return the contrastive temperature of an epoch."""

    def mix(self, batch: Batch, mixing: Mixing) -> Batch:
        """Return the batch with samples mixed with their partners, which may be on other ranks."""

    def inputs(self, batch: Batch, purpose: str) -> tuple[Any, ...]:
        """Return the arguments of the model's forward; `purpose` is "train" or "validate"."""

    def __call__(self, outputs: Any, batch: Batch, epoch: int, mixing: Mixing) -> Losses:
        """Return the losses of the global batch from this rank's part of it."""

    def judged(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return flattened predictions and targets of this rank's part, for `scores`."""

    def scores(
        self, preds: Float[Tensor, "samples features"], truths: Float[Tensor, "samples features"]
    ) -> dict[str, float]:
        """Return the scores of a validation by name; their mean selects the best checkpoint."""


class HighLevelObjective:
    """BiMixCo for the first epochs (`mixco_fraction`), then SoftCLIP; the prior's error always.

    Scotti et al. (2023), section 3.3.

    Args:
        config: the run.
        prior_scale: factor from clip_tokens to the space in which the prior predicts.
    """

    def __init__(self, config: ExperimentConfig, prior_scale: float) -> None:
        self.config = config.loss
        self.prior = config.model.prior
        self.seed = config.training.seed
        self.epochs = config.training.epochs
        self.prior_scale = prior_scale
        self.mixco_epochs = mixco_epochs(config.loss.mixco_fraction, self.epochs)

    def mixes(self, epoch: int) -> bool:
        """Return whether this epoch uses BiMixCo, on mixed voxels."""
        return epoch < self.mixco_epochs

    def temperature(self, epoch: int) -> float:
        """Return the temperature: constant for BiMixCo, half a cosine over epochs for SoftCLIP."""
        config = self.config
        if self.mixes(epoch):
            return config.mixco_temperature
        index = min(epoch, self.epochs - 1) - self.mixco_epochs
        return soft_temperature(
            config.soft_temperature_start,
            config.soft_temperature_end,
            index,
            self.epochs - self.mixco_epochs,
        )

    def mix(self, batch: Batch, mixing: Mixing) -> Batch:
        """Return the batch with mixed voxels and, as `prior_tokens`, mixed clip_tokens.

        Mixing shortens tokens: all tokens of a sample are scaled so that token 0 has the mixed
        norm of the two samples' token 0 (1 for tokens of unit norm).
        """
        own = slice(batch.start, batch.start + len(batch.keys))
        draw = (mixing.mix_partner, mixing.mix_coef)
        voxels = mix(gather(batch.voxels, batch.global_size), *draw)[own]
        if not self.config.mix_prior_target:
            return replace(batch, voxels=voxels)
        tokens = gather(batch.targets["clip_tokens"], batch.global_size)
        norm = mix(tokens[:, :1].norm(dim=-1, keepdim=True), *draw)
        mixed = mix(tokens, *draw)
        tiny = torch.finfo(mixed.dtype).tiny
        mixed = mixed * norm / mixed[:, :1].norm(dim=-1, keepdim=True).clamp_min(tiny)
        return replace(batch, voxels=voxels, targets={**batch.targets, "prior_tokens": mixed[own]})

    def inputs(self, batch: Batch, purpose: str) -> tuple[Any, ...]:
        """Return voxels, the prior's targets and its random draw."""
        return batch.voxels, prior_tokens(batch), draw_prior(self.prior, self.seed, batch, purpose)

    def __call__(self, outputs: Outputs, batch: Batch, epoch: int, mixing: Mixing) -> Losses:
        """Return the contrastive loss, the prior's error and their weighted sum."""
        count, config = batch.global_size, self.config
        preds = gather(outputs.projected.flatten(1), count)
        targets = gather(batch.targets["clip_tokens"].flatten(1), count)
        errors = prior_errors(outputs.pred_x_0, self.prior_scale * prior_tokens(batch))
        prior = gather(errors, count).mean()
        temperature = self.temperature(epoch)
        if self.mixes(epoch):
            contrastive = bimixco(preds, targets, mixing.mix_partner, mixing.mix_coef, temperature)
        else:
            contrastive = soft_clip(preds, targets, temperature)
        total = config.contrastive_weight * contrastive + config.prior_weight * prior
        return {"contrastive": contrastive, "prior": prior, "total": total}

    def judged(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return projected tokens and clip_tokens."""
        return outputs.projected.flatten(1), batch.targets["clip_tokens"].flatten(1)

    def scores(
        self, preds: Float[Tensor, "samples features"], truths: Float[Tensor, "samples features"]
    ) -> dict[str, float]:
        """Return top-1 retrieval of both directions over the whole split."""
        similarity = cosine_similarity(preds, truths).cpu().numpy()
        return {f"top1_{d}": top_k(ranks(similarity, d), 1) for d in DIRECTIONS}


class LowLevelObjective:
    """Absolute error of the latents, and a soft contrastive loss against the teacher's map.

    Scotti et al. (2023), section 3.4; nothing is mixed.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config.loss

    def mixes(self, epoch: int) -> bool:
        """Return False."""
        return False

    def temperature(self, epoch: int) -> float:
        """Return the constant temperature of the soft contrastive loss."""
        return self.config.map_temperature

    def mix(self, batch: Batch, mixing: Mixing) -> Batch:
        """Return the batch as it is."""
        return batch

    def inputs(self, batch: Batch, purpose: str) -> tuple[Any, ...]:
        """Return the voxels."""
        return (batch.voxels,)

    def __call__(
        self, outputs: LowLevelOutputs, batch: Batch, epoch: int, mixing: Mixing
    ) -> Losses:
        """Return the latents' error, the contrastive loss and their weighted sum."""
        count, config = batch.global_size, self.config
        errors = latent_errors(outputs.latents, batch.targets["latents"])
        maps = {"student": outputs.feature_map, **teacher_views(batch.targets)}
        rows = {name: gather(tokens, count).flatten(0, 1) for name, tokens in maps.items()}
        latents = gather(errors, count).mean()
        contrastive = soft_contrastive(**rows, temperature=config.map_temperature)
        total = config.latent_weight * latents + config.map_weight * contrastive
        return {"contrastive": contrastive, "latents": latents, "total": total}

    def judged(self, outputs: LowLevelOutputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return predicted and true latents."""
        return outputs.latents.flatten(1), batch.targets["latents"].flatten(1)

    def scores(
        self, preds: Float[Tensor, "samples features"], truths: Float[Tensor, "samples features"]
    ) -> dict[str, float]:
        """Return the mean over pictures of the correlation of predicted and true latents."""
        centred = [x.double() - x.double().mean(dim=1, keepdim=True) for x in (preds, truths)]
        unit = [torch.nn.functional.normalize(x, dim=1) for x in centred]
        return {"latent_correlation": float((unit[0] * unit[1]).sum(dim=1).mean())}


def prior_tokens(batch: Batch) -> Float[Tensor, "batch tokens dim"]:
    """Return the prior's target: the mixed clip_tokens if the batch was mixed, else clip_tokens."""
    return batch.targets.get("prior_tokens", batch.targets["clip_tokens"])


def teacher_views(targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the teacher's map of picture and augmented view, by argument of `soft_contrastive`."""
    return {
        "teacher": targets["feature_map"],
        "teacher_augmented": targets["feature_map_augmented"],
    }
