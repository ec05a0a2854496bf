"""Contrastive losses and MixCo: pure functions of whole matrices.

`preds` and `targets` are flattened tokens (batch, features) of the whole global batch; both are
normalised here and nowhere else. BiMixCo and SoftCLIP follow Scotti et al. (2023), section 3.3 and
appendix; MixCo is Kim et al. (2020). A similarity matrix has brains in its rows and images in its
columns.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def mix_voxels(
    voxels: Float[Tensor, "batch voxels"],
    mix_partner: Int[Tensor, " batch"],
    mix_coef: Float[Tensor, " batch"],
) -> Float[Tensor, "batch voxels"]:
    """Return mix_coef * voxels + (1 - mix_coef) * the partner's voxels."""
    coef = mix_coef[:, None]
    return coef * voxels + (1 - coef) * voxels[mix_partner]


def bimixco(
    preds: Float[Tensor, "batch features"],
    targets: Float[Tensor, "batch features"],
    mix_partner: Int[Tensor, " batch"],
    mix_coef: Float[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the bidirectional contrastive loss of mixed brains.

    Brain i matches image i with weight mix_coef[i] and image mix_partner[i] with the rest. Where a
    sample is its own partner the two weights add up (the published code overwrites one with the
    other).
    """
    similarity = cosine_similarity(preds, targets) / temperature
    weights = torch.diag(mix_coef)
    rows = torch.arange(len(mix_coef), device=mix_coef.device)
    weights = weights.index_put((rows, mix_partner), 1 - mix_coef, accumulate=True)
    return _symmetric_cross_entropy(similarity, weights, weights.T)


def soft_clip(
    preds: Float[Tensor, "batch features"],
    targets: Float[Tensor, "batch features"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the contrastive loss whose labels are the images' similarities among themselves."""
    similarity = cosine_similarity(preds, targets) / temperature
    labels = (cosine_similarity(targets, targets) / temperature).softmax(dim=-1)
    return _symmetric_cross_entropy(similarity, labels, labels)


def prior_errors(
    pred_x_0: Float[Tensor, "batch tokens dim"], x_0: Float[Tensor, "batch tokens dim"]
) -> Float[Tensor, " batch"]:
    """Return each sample's mean squared error of the prior's estimate."""
    return (pred_x_0.float() - x_0.float()).square().mean(dim=(1, 2))


def soft_temperature(start: float, end: float, index: int, count: int) -> float:
    """Return SoftCLIP's temperature in its epoch `index` of `count`: half a cosine."""
    if count <= 1:
        return start
    return end - 0.5 * (end - start) * (1 + math.cos(math.pi * index / (count - 1)))


def cosine_similarity(
    rows: Float[Tensor, "rows features"], columns: Float[Tensor, "columns features"]
) -> Float[Tensor, "rows columns"]:
    """Return the cosine of every row with every column, in float32."""
    # Half precision would shift the logits by up to 0.1 at a temperature of 0.004.
    with torch.autocast(rows.device.type, enabled=False):
        return (
            functional.normalize(rows.float(), dim=-1)
            @ functional.normalize(columns.float(), dim=-1).T
        )


def _symmetric_cross_entropy(
    similarity: Float[Tensor, "batch batch"],
    brain_labels: Float[Tensor, "batch batch"],
    image_labels: Float[Tensor, "batch batch"],
) -> Float[Tensor, ""]:
    brain_to_image = -(brain_labels * similarity.log_softmax(dim=-1)).sum(dim=-1).mean()
    image_to_brain = -(image_labels * similarity.T.log_softmax(dim=-1)).sum(dim=-1).mean()
    return (brain_to_image + image_to_brain) / 2
