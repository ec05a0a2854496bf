"""What a checkpoint is evaluated on, and whether the two belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import Manifest
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.errors import DataError
from mindeye_dist.shapes import TargetShape


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """What a checkpoint is evaluated on: the splits of the subject that it was trained on.

    Attributes:
        splits: train, val and test, opened with the targets that the checkpoint predicts.
        targets: the frozen model that these targets are by, and their shape.
        manifest: of the shards.
    """

    splits: Mapping[str, Dataset]
    targets: TargetShape
    manifest: Manifest


def check_data(predictor: Predictor, data: EvaluationData) -> None:
    """See that a checkpoint can be evaluated on data.

    Raises:
        DataError: the targets are not by the frozen model that the checkpoint was trained with, or
            the subject has other voxels.
    """
    config, kind = predictor.config, predicted_kind(predictor)
    name, trained = config.data.subject, predictor.shapes.targets[kind]
    num_voxels = data.manifest.subject(name).num_voxels
    if num_voxels != predictor.shapes.num_voxels:
        raise DataError(
            f"{name}: has {num_voxels} voxels, {predictor.path} was trained on "
            f"{predictor.shapes.num_voxels}"
        )
    if data.targets.digest != trained.digest:
        raise DataError(
            f"{name}: {kind} {set_name(predictor)!r} are not by the encoder of {predictor.path} "
            f"({trained}), but by {data.targets}"
        )


def predicted_kind(predictor: Predictor) -> Literal["clip_tokens", "latents"]:
    """Return the kind of target that a checkpoint is judged by."""
    return "latents" if predictor.config.pipeline == "lowlevel" else "clip_tokens"


def set_name(predictor: Predictor) -> str:
    """Return the name of the set of targets that a checkpoint was trained on."""
    config = predictor.config
    computed = bool(config.data.computed.encoder)
    return "computed" if computed else config.target_sets[predicted_kind(predictor)]
