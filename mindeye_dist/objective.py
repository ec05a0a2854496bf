"""Objective: outputs and targets -> named losses and their weighted sum, in train and validation.

BiMixCo for the first part of the epochs, SoftCLIP after it, the prior's error throughout (Scotti et
al. 2023, section 3.3). Every rank sees the whole global batch, so losses and negatives do not
depend on the number of workers.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mindeye_dist.batch import Batch
from mindeye_dist.config import LossConfig
from mindeye_dist.distributed import gather
from mindeye_dist.draws import Mixing
from mindeye_dist.losses import bimixco, prior_errors, soft_clip, soft_temperature
from mindeye_dist.models.mindeye import Outputs


@dataclass(frozen=True)
class Losses:
    """Scalars of one global batch; `total` is what is minimised."""

    contrastive: Float[Tensor, ""]
    prior: Float[Tensor, ""]
    total: Float[Tensor, ""]


class Objective:
    """The loss as a function of the epoch.

    Args:
        config: weights, temperatures, and the share of epochs with BiMixCo.
        epochs: length of the run.
        prior_scale: factor between clip_tokens and the space that the prior predicts in.
    """

    def __init__(self, config: LossConfig, epochs: int, prior_scale: float) -> None:
        self.config = config
        self.epochs = epochs
        self.prior_scale = prior_scale
        self.mixco_epochs = int(config.mixco_fraction * epochs)

    def mixes(self, epoch: int) -> bool:
        """Return whether voxels are mixed (BiMixCo) in this epoch of training."""
        return epoch < self.mixco_epochs

    def temperature(self, epoch: int) -> float:
        """Return the contrastive temperature of an epoch."""
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

    def __call__(self, outputs: Outputs, batch: Batch, epoch: int, mixing: Mixing) -> Losses:
        """Return the losses of the global batch from this rank's part of it."""
        count = batch.global_size
        preds = gather(outputs.projected.flatten(1), count)
        targets = gather(batch.clip_tokens.flatten(1), count)
        errors = gather(prior_errors(outputs.pred_x_0, self.prior_scale * batch.clip_tokens), count)
        if self.mixes(epoch):
            contrastive = bimixco(
                preds, targets, mixing.mix_partner, mixing.mix_coef, self.temperature(epoch)
            )
        else:
            contrastive = soft_clip(preds, targets, self.temperature(epoch))
        prior = errors.mean()
        total = self.config.contrastive_weight * contrastive + self.config.prior_weight * prior
        return Losses(contrastive=contrastive, prior=prior, total=total)
