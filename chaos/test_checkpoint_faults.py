"""No damaged checkpoint is taken for a good one, and no good one for a damaged.

Oracle: which were damaged is known. `make chaos` runs a thousand.
"""

from chaos.checkpoint_faults import DAMAGES, FAILED_SAVES, run


def test_the_newest_good_checkpoint_is_found_whatever_was_damaged():
    count = 3 * (len(DAMAGES) + len(FAILED_SAVES))
    figures = run(count, seed=1)
    assert len(figures.pop("kinds")) == len(DAMAGES) + len(FAILED_SAVES) >= 8
    assert figures == {
        "injections": count,
        "accepted": 0,
        "wrong_fallback": 0,
        "clean_loads": count,
        "false_alarms": 0,
    }
