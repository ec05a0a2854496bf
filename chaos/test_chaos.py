"""The chaos runs themselves, shorter than `make chaos` has them."""

import pytest

from chaos import kills, object_store, shard_faults
from chaos.proxy import Faults


def test_no_damage_of_a_shard_is_silent():
    figures = shard_faults.run(positions=12, seed=1)
    assert figures["silent"] == figures["not named or not in its place"] == 0, figures
    assert figures["reported with shard, key and offset"] > 30
    assert figures["clean alarms"] == 0


@pytest.mark.s3
def test_a_failing_object_store_costs_no_byte_and_no_run():
    rough = Faults(busy=0.1, reset=0.05, stall=0.01, short=0.05)
    figures = object_store.run(samples=128, pairs=1, faults=rough)
    assert (figures["wrong batches"], figures["aborts"]) == (0, 0), figures
    assert sum(figures["faults made"].values()) > 20
    assert figures["retries"] > 20


@pytest.mark.processes
def test_killed_runs_end_with_the_same_bits_and_ledgers():
    figures = kills.run(kills=5, seed=2, each=3)
    assert figures["kills"] == 5
    assert figures["runs"] >= 2  # the second is of two processes
    assert (figures["other weights"], figures["other ledgers"]) == (0, 0), figures
