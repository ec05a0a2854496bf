"""Live table of a sweep with 100 trials. Oracle: the size of a terminal."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from jobs.recipes import recipe
from jobs.sweeps.spaces import read_space
from jobs.sweeps.table import SweepTable

SPACE = read_space("schedule+size", recipe("mindeye1-subj01"))


@pytest.fixture
def sweep():
    """Return the table of 80 ended, 12 running and 8 waiting trials."""
    table = SweepTable(Path("nowhere"), 100, 90)
    states = ["TERMINATED"] * 80 + ["RUNNING"] * 12 + ["PENDING"] * 8
    params = {path: domain.values[0] for path, domain in SPACE.items()}
    trials = [
        SimpleNamespace(trial_id=f"x_{number:05d}", status=state, config=params)
        for number, state in enumerate(states)
    ]
    for number, trial in enumerate(trials[:92]):
        table.on_trial_result(0, trials, trial, {"score": number / 100, "epoch": number % 90})
    return table, trials


def draw_lines(sweep, width):
    table, trials = sweep
    console = Console(file=io.StringIO(), width=width)
    console.print(table.summary(trials), table.make_table(trials, width), sep="\n")
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120, 250])
def test_a_hundred_trials_fit_a_screen(sweep, width):
    lines = draw_lines(sweep, width)
    assert max(len(line) for line in lines) <= width
    rows = [line for line in lines if line.startswith("│ 000")]
    assert len(rows) == 16  # no row takes two lines
    assert len(lines) <= 26
    assert "76 more" in "\n".join(lines)


def test_settings_without_room_are_counted(sweep):
    assert "more settings on a wider terminal" in "\n".join(draw_lines(sweep, 80))
    assert "wider terminal" not in "\n".join(draw_lines(sweep, 250))
    assert "12 running, 80 ended, 8 waiting, best 0.910 (trial 00091)" in draw_lines(sweep, 250)[0]
