"""How a response is made of repeats. Oracle: the rows themselves and their NumPy mean."""

import numpy as np
import pytest

from mindeye_dist.data.repeats import chances, draw_repeat

ROWS = np.array([[0.0, 1.0], [2.0, 3.0], [8.0, 9.0]], np.float16)
MEAN = ROWS.astype(np.float32).mean(0)


def test_draws():
    drawn = chances(0, 5, 2000, 3)
    np.testing.assert_array_equal(draw_repeat(ROWS, "cycle", 4, drawn[0]), ROWS[1])
    np.testing.assert_allclose(draw_repeat(ROWS, "mean", 0, drawn[0]), MEAN, rtol=1e-6)
    rows = {float(draw_repeat(ROWS, "random", 0, chance)[0]) for chance in drawn[:50]}
    assert rows == {0.0, 2.0, 8.0}
    mixed = np.array([draw_repeat(ROWS, "random_combine", 0, chance) for chance in drawn])
    assert 0 <= mixed[:, 0].min() <= mixed[:, 0].max() <= 8
    np.testing.assert_allclose(mixed[:, 1], mixed[:, 0] + 1, rtol=1e-6)  # weights add up to one
    assert np.isclose(mixed[:, 0], MEAN[0]).mean() == pytest.approx(0.3, abs=0.05)
    assert np.isin(mixed[:, 0], ROWS[:, 0]).mean() == pytest.approx(0.2, abs=0.05)


def test_draws_are_a_function_of_seed_and_step():
    np.testing.assert_array_equal(chances(1, 2, 8, 3), chances(1, 2, 8, 3))
    assert not np.isin(chances(1, 2, 8, 3), [chances(1, 3, 8, 3), chances(2, 2, 8, 3)]).any()
