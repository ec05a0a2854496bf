"""Faults in the numbers of a run are found within the step, flipped bits within the interval.

Oracle: what was put in.
"""

import json
from math import inf

import pytest

from chaos import numeric
from chaos.record import NEVER, record


@pytest.mark.processes
def test_every_fault_is_found_in_time_and_named():
    figures = numeric.run(seed=7)
    assert {fault["kind"] for fault in figures["each"]} == numeric.FAULTS.keys()
    assert figures["faults"] == 8
    assert figures["not found"] == figures["late"] == figures["not alike on all ranks"] == 0
    for fault in figures["each"]:
        named = "weights" if fault["kind"] == "flipped bit" else "sample0000000"
        assert named in fault["said"], fault


def test_figures_out_of_bounds_are_an_error_and_leave_others(tmp_path):
    out = tmp_path / "chaos.json"
    record(out, "other", {"lost": 0, "ratio": 0.9}, {"lost": NEVER, "ratio": (0.8, inf)})
    with pytest.raises(SystemExit, match="this: out of bounds: lost$"):
        record(out, "this", {"lost": 1, "ratio": 0.8}, {"lost": NEVER, "ratio": (0.8, inf)})
    written = json.loads(out.read_text())
    assert (written["other"]["held"], written["this"]["held"]) == (True, False)
