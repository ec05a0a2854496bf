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


def mix(
    rows: Float[Tensor, "batch ..."],
    mix_partner: Int[Tensor, " batch"],
    mix_coef: Float[Tensor, " batch"],
) -> Float[Tensor, "batch ..."]:
    """Return mix_coef * each row (voxels or tokens) + (1 - mix_coef) * its partner's."""
    coef = mix_coef.reshape(-1, *(1 for _ in rows.shape[1:]))
    return coef * rows + (1 - coef) * rows[mix_partner]


def bimixco(
    preds: Float[Tensor, "batch features"],
    targets: Float[Tensor, "batch features"],
    mix_partner: Int[Tensor, " batch"],
    mix_coef: Float[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the bidirectional contrastive loss of mixed brains, labelled by `mixing_labels`."""
    similarity = cosine_similarity(preds, targets) / temperature
    labels = mixing_labels(mix_partner, mix_coef)
    return _symmetric_cross_entropy(similarity, labels, labels.T)


def mixing_labels(
    mix_partner: Int[Tensor, " batch"],
    mix_coef: Float[Tensor, " batch"],
) -> Float[Tensor, "batch batch"]:
    """Return how much each brain (row) matches each image.

    Brain i matches image i with mix_coef[i] and image mix_partner[i] with the rest; if a sample
    is its own partner, the two add up. (In the published code the second overwrites the first, so
    that an unmixed sample may have weight 0.)
    """
    rows = torch.arange(len(mix_coef), device=mix_coef.device)
    return torch.diag(mix_coef).index_put((rows, mix_partner), 1 - mix_coef, accumulate=True)


def soft_clip(
    preds: Float[Tensor, "batch features"],
    targets: Float[Tensor, "batch features"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the contrastive loss whose labels are the images' similarities among themselves."""
    similarity = cosine_similarity(preds, targets) / temperature
    labels = (cosine_similarity(targets, targets) / temperature).softmax(dim=-1)
    return _symmetric_cross_entropy(similarity, labels, labels)


def soft_contrastive(
    student: Float[Tensor, "rows features"],
    teacher: Float[Tensor, "rows features"],
    teacher_augmented: Float[Tensor, "rows features"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the contrastive loss of a student's map against two views of a teacher's map.

    Rows are the map tokens of the whole batch. The labels are the similarities between the
    teacher's map of the picture and of its augmented view (Scotti et al. 2023, section 3.4).
    """
    similarity = cosine_similarity(student, teacher_augmented) / temperature
    labels = cosine_similarity(teacher, teacher_augmented) / temperature
    return _symmetric_cross_entropy(similarity, labels.softmax(dim=-1), labels.T.softmax(dim=-1))


def prior_errors(
    pred_x_0: Float[Tensor, "batch tokens dim"], x_0: Float[Tensor, "batch tokens dim"]
) -> Float[Tensor, " batch"]:
    """Return each sample's mean squared error of the prior's estimate."""
    return (pred_x_0.float() - x_0.float()).square().mean(dim=(1, 2))


def latent_errors(
    pred: Float[Tensor, "batch channels height width"],
    latents: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, " batch"]:
    """Return each sample's mean absolute error of the predicted latents."""
    return (pred.float() - latents.float()).abs().mean(dim=(1, 2, 3))


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


def cross_entropy(
    similarity: Float[Tensor, "rows columns"], labels: Float[Tensor, "rows columns"]
) -> Float[Tensor, ""]:
    """Return the mean over rows of the cross entropy with soft labels."""
    return -(labels * similarity.log_softmax(dim=-1)).sum(dim=-1).mean()


def _symmetric_cross_entropy(
    similarity: Float[Tensor, "batch batch"],
    brain_labels: Float[Tensor, "batch batch"],
    image_labels: Float[Tensor, "batch batch"],
) -> Float[Tensor, ""]:
    brain_to_image = cross_entropy(similarity, brain_labels)
    image_to_brain = cross_entropy(similarity.T, image_labels)
    return (brain_to_image + image_to_brain) / 2
