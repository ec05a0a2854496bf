"""Rendered scenes: determinism, variety, and pictures that show what the factors say."""

import collections

import numpy as np
import pytest

from mindeye_dist.simulation.scene_objects import DRAWINGS, Pen
from mindeye_dist.simulation.scenes import COLORS, GROUNDS, PLACES, SIZES, render_scene

TABLES = {"kind": DRAWINGS, "color": COLORS, "place": PLACES, "size": SIZES, "ground": GROUNDS}


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(index, seed=0, size=64) for index in range(400)]


def test_a_scene_is_a_function_of_seed_and_index():
    """Oracle: the same scene, rendered again after others."""
    first = render_scene(5, seed=1)
    render_scene(6, seed=1)
    again = render_scene(5, seed=1)
    np.testing.assert_array_equal(first.picture, again.picture)
    assert (first.caption, first.factors) == (again.caption, again.factors)
    assert not np.array_equal(first.picture, render_scene(5, seed=2).picture)


def test_factors_do_not_depend_on_the_size_of_the_picture():
    """Oracle: the draws come first and are the same for every size."""
    small, large = (render_scene(3, seed=0, size=size) for size in (48, 160))
    assert small.factors["kind"] == large.factors["kind"]
    assert small.factors["ground"] == large.factors["ground"]


def test_pictures_have_the_asked_size_and_use_the_range(scenes):
    assert render_scene(0, seed=0).picture.shape == (160, 160, 3)
    assert all(scene.picture.shape == (64, 64, 3) for scene in scenes)
    assert all(scene.picture.dtype == np.uint8 for scene in scenes)
    assert all(scene.picture.std() > 8 for scene in scenes)
    means = [scene.picture.mean() for scene in scenes]
    assert min(means) < 80
    assert max(means) > 180


def test_every_scene_is_unique(scenes):
    assert len({scene.picture.tobytes() for scene in scenes}) == len(scenes)


@pytest.mark.parametrize("factor", list(TABLES))
def test_every_value_of_a_factor_occurs(scenes, factor):
    """Oracle: uniform draws; of 400 over at most 30 values, fewer than 2 has odds below 1e-3."""
    counts = collections.Counter(scene.factors[factor] for scene in scenes)
    assert set(counts) == set(TABLES[factor])
    assert min(counts.values()) >= 2


def test_the_caption_names_all_factors(scenes):
    assert all(value in scene.caption for scene in scenes for value in scene.factors.values())
    with_companion = [scene for scene in scenes if "companion" in scene.factors]
    assert 150 < len(with_companion) < 250
    assert all(scene.factors["companion"] != scene.factors["kind"] for scene in with_companion)


@pytest.mark.parametrize("ground", list(GROUNDS))
def test_grounds_fill_the_picture_with_finite_colours(ground):
    """Oracle: the range of 8-bit colour, with some room for texture that is clipped later."""
    for seed in range(5):
        canvas = GROUNDS[ground][1](np.random.default_rng(seed), 40)
        assert canvas.shape == (40, 40, 3)
        assert canvas.dtype == np.float32
        assert np.isfinite(canvas).all()
        assert canvas.min() > -80
        assert canvas.max() < 335


def test_drawings_differ_and_fill_their_box():
    """Oracle: silhouettes compared pixel by pixel; none may cover nearly the same as another."""
    silhouettes = {}
    for kind, draw in DRAWINGS.items():
        pen = Pen(60, (200, 60, 60))
        draw(pen)
        silhouettes[kind] = np.array(pen.layer.getchannel("A")) > 0
        left, top, right, bottom = pen.layer.getchannel("A").getbbox()
        assert max(right - left, bottom - top) >= 38, kind
    masks = np.stack(list(silhouettes.values())).reshape(len(silhouettes), -1).astype(float)
    overlap = masks @ masks.T
    union = masks.sum(1)[:, None] + masks.sum(1)[None] - overlap
    assert np.triu(overlap / union, 1).max() < 0.9


def test_the_object_is_at_its_place(scenes):
    """Oracle: where scenes of one ground differ from their median picture, on average."""
    centres = collections.defaultdict(list)
    for ground in ("night sky", "cloudy sky", "wooden table"):
        group = [
            s for s in scenes if s.factors["ground"] == ground and "companion" not in s.factors
        ]
        median = np.median([s.picture for s in group], axis=0)
        for scene in group:
            change = np.abs(scene.picture - median).mean(-1) ** 2
            rows, columns = np.indices(change.shape) / 64
            centre = [(change * axis).sum() / change.sum() for axis in (columns, rows)]
            centres[PLACES[scene.factors["place"]]].append(centre)
    for axis in (0, 1):
        low, high = (
            np.mean([c[axis] for place, cs in centres.items() for c in cs if place[axis] == at])
            for at in (0.28, 0.72)
        )
        assert low < 0.5 < high
        assert high - low > 0.1
