"""Data of an evaluation: the splits that a checkpoint is evaluated on, and the check of both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import Manifest
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.errors import DataError
from mindeye_dist.shapes import TargetShape
from mindeye_dist.strict import to_dict


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Splits of the subject that a checkpoint was trained on.

    Attributes:
        splits: train, val and test, with the targets that the checkpoint predicts.
        targets: shape of these targets, and the frozen model that made them.
        manifest: manifest of the shards.
    """

    splits: Mapping[str, Dataset]
    targets: TargetShape
    manifest: Manifest


def check_data(predictor: Predictor, data: EvaluationData) -> None:
    """Check that a checkpoint and the data that it is to be evaluated on fit each other.

    Raises:
        DataError: the targets are by another frozen model than those of the training, or the
            numbers of voxels differ.
    """
    name, kind = predictor.subject, target_kind(predictor)
    num_voxels = data.manifest.subject(name).num_voxels
    if num_voxels != predictor.num_voxels:
        raise DataError(
            f"{name}: has {num_voxels} voxels, {predictor.path} was trained on "
            f"{predictor.num_voxels}"
        )
    trained = predictor.shapes.targets[kind]
    if data.targets.digest != trained.digest:
        raise DataError(
            f"{name}: {kind} {target_set(predictor)!r} are not by the encoder of {predictor.path} "
            f"({trained}), but by {data.targets}"
        )


def target_kind(predictor: Predictor) -> Literal["clip_tokens", "latents"]:
    """Return the kind of target that a checkpoint predicts."""
    return "latents" if predictor.config.pipeline == "lowlevel" else "clip_tokens"


def target_set(predictor: Predictor) -> str:
    """Return the name of the set of targets that a checkpoint was trained on."""
    config = predictor.config
    computed = bool(config.data.computed.encoder)
    return "computed" if computed else config.target_sets[target_kind(predictor)]


def checkpoint_facts(predictor: Predictor, data: EvaluationData) -> dict[str, Any]:
    """Return the facts of checkpoint and data that a report of either pipeline begins with."""
    subject = data.manifest.subject(predictor.subject)
    return {
        "checkpoint": str(predictor.path),
        "subject": predictor.subject,
        "num_voxels": subject.num_voxels,
        "simulated": bool(subject.truth),
        "licence": data.manifest.licence,
        "targets": {
            "name": target_set(predictor),
            "encoder": data.targets.encoder,
            "digest": data.targets.digest,
        },
        "counts": {name: len(split) for name, split in data.splits.items()},
        "config": to_dict(predictor.config),
    }
