"""Ranks, scores and intervals; the direction names are pinned by a pool small enough to read."""

import numpy as np
import pytest

from mindeye_dist.metrics import (
    bootstrap_interval,
    ranks,
    retrieval_in_draws,
    scores,
    similarity,
    top_k,
)
from mindeye_dist.randomness import numpy_generator


def test_directions_by_hand():
    """Brain 0 is nearest to image 1; image 0 is nearest to brain 0."""
    table = np.array([[0.5, 0.9, 0.1], [0.2, 0.8, 0.3], [0.1, 0.85, 0.7]])
    assert ranks(table, "brain_to_image").tolist() == [1, 0, 1]
    assert ranks(table, "image_to_brain").tolist() == [0, 2, 0]


def test_ties_count_against_the_decoder():
    assert ranks(np.zeros((4, 4)), "brain_to_image").tolist() == [3, 3, 3, 3]


def test_top_k_against_sorting():
    """Oracle: a loop over sorted candidates."""
    table = np.random.default_rng(0).standard_normal((40, 40))
    for k in (1, 5):
        expected = np.mean([i in np.argsort(-row)[:k] for i, row in enumerate(table)])
        assert top_k(ranks(table, "brain_to_image"), k) == pytest.approx(expected)


def test_similarity_is_cosine_and_centring_removes_a_common_mean():
    generator = np.random.default_rng(0)
    images = generator.standard_normal((30, 20))
    brains = images + 0.1 * generator.standard_normal((30, 20))
    expected = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in images] for a in brains]
    np.testing.assert_allclose(similarity(brains, images), expected, rtol=1e-10)
    np.testing.assert_allclose(
        similarity(brains + 50, images - 7, centred=True),
        similarity(brains, images, centred=True),
        atol=1e-10,
    )


def test_scores_of_a_perfect_and_a_random_decoder():
    generator = np.random.default_rng(0)
    perfect = scores(np.eye(50), generator)["brain_to_image"]
    assert perfect == {"top1": 1.0, "top1_ci": [1.0, 1.0], "top5": 1.0, "median_rank": 1.0}
    table = generator.standard_normal((400, 400))
    chance = scores(table, generator)["image_to_brain"]
    assert chance["top1"] < 0.02
    assert chance["median_rank"] == pytest.approx(200, abs=40)


def test_bootstrap_interval_is_the_binomials():
    """Closed form: the normal approximation of a binomial share."""
    hits = (np.arange(400) < 240).astype(float)
    low, high = bootstrap_interval(hits, np.random.default_rng(0))
    spread = 1.96 * np.sqrt(0.6 * 0.4 / 400)
    assert low == pytest.approx(0.6 - spread, abs=0.01)
    assert high == pytest.approx(0.6 + spread, abs=0.01)


@pytest.mark.parametrize("table", [np.zeros((3, 4)), np.full((3, 3), np.nan)])
def test_bad_tables_are_refused(table):
    with pytest.raises(ValueError, match="similarity: got"):
        ranks(table, "brain_to_image")


def embeddings(count, noise=1.5):
    generator = np.random.default_rng(3)
    images = generator.standard_normal((count, 10)) + 1
    return images + noise * generator.standard_normal((count, 10)), images


def test_retrieval_in_draws_is_a_loop_over_pools():
    """Oracle: the same pools, each query's best match sought with argmax."""
    brains, images = embeddings(40)
    result = retrieval_in_draws(brains, images, pool=12, draws=7, seed=5)
    generator = numpy_generator(5, "retrieval in draws")
    top1 = {name: [] for name in result if name.startswith(("brain", "image"))}
    for _ in range(7):
        some = generator.choice(40, 12, replace=False)
        assert len(set(some)) == 12
        for suffix in ("", "_centred"):
            b, i = brains[some], images[some]
            if suffix:
                b, i = b - b.mean(0), i - i.mean(0)
            cosine = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in i] for x in b]
            for axis, direction in ((1, "brain_to_image"), (0, "image_to_brain")):
                found = np.argmax(cosine, axis=axis) == np.arange(12)
                top1[direction + suffix].append(found.mean())
    assert len(top1) == 4
    for name, values in top1.items():
        mean, reach = np.mean(values), 1.96 * np.std(values) / np.sqrt(7)
        assert result[name]["top1"] == pytest.approx(mean)
        assert result[name]["top1_ci"] == pytest.approx([mean - reach, mean + reach], abs=1e-5)
    assert (result["pool"], result["draws"], result["chance"]) == (12, 7, 1 / 12)


def test_a_pool_of_everything_is_the_whole_pool():
    """Oracle: `scores` of all brains; every draw is the same."""
    brains, images = embeddings(15)
    result = retrieval_in_draws(brains, images, pool=15, draws=3, seed=0)
    whole = scores(similarity(brains, images), np.random.default_rng(0))
    for direction in ("brain_to_image", "image_to_brain"):
        assert result[direction]["top1"] == pytest.approx(whole[direction]["top1"])
        assert np.ptp(result[direction]["top1_ci"]) == pytest.approx(0)


def test_pools_that_cannot_be_drawn_are_refused():
    brains, images = embeddings(20)
    with pytest.raises(ValueError, match="30 draws of a pool of 300, expected .* 20, the number"):
        retrieval_in_draws(brains, images, seed=0)
    with pytest.raises(ValueError, match="got 19 brains and 20 images"):
        retrieval_in_draws(brains[1:], images, pool=5, seed=0)
