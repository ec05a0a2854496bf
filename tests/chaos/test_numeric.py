"""Faults in the numbers of a run are found within the step, flipped bits within the interval.

Oracle: what was put in.
"""

import json

import pytest

from tests.chaos import numeric


@pytest.mark.processes
def test_every_fault_is_found_in_time_and_named(tmp_path):
    out = tmp_path / "chaos.json"
    out.write_text('{"other": 1}')
    numeric.main(out, seed=7)
    written = json.loads(out.read_text())
    assert written["other"] == 1
    faults = written["numeric"]["faults"]
    assert {fault["kind"] for fault in faults} == numeric.FAULTS.keys()
    assert written["numeric"]["found"] == len(faults) == 8
    for fault in faults:
        assert fault["alike on all ranks"], fault
        flipped = fault["kind"] == "flipped bit"
        assert fault["raised"] == ("DivergedError" if flipped else "NonFiniteError"), fault
        limit = numeric.CHECK_EVERY if flipped else 1
        assert 0 <= fault["steps until found"] < limit, fault
        assert ("weights" if flipped else "sample0000000") in fault["said"], fault
