"""Nothing depends on the number of workers but the time it takes, also where it changes on the way.

Oracle: the one-process run's ledger of (step, samples), losses and order.
"""

from unittest import mock

import pytest

from chaos.kills import read_ledger, train
from jobs.worker import worker
from mindeye_dist.data.loader import TrainLoader
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.strict import override
from tests.forked import run_ranks

LONG = {
    "training.global_batch_size": 4,
    "training.epochs": 3,
    "training.validate_every_epochs": 3,
    "checkpoint.every_steps": 1,
    "model.backbone.input_dropout": 0.0,
    "model.backbone.block_dropout": 0.0,
}
"""Five steps and three quarters an epoch."""
TOLERANCE = 1e-6


def train_until(config, last):
    """Train, and end where a step begins."""
    before = TrainLoader.batches

    def cut(loader, first, total, *ranks):
        return before(loader, first, min(total, last), *ranks)

    with mock.patch.object(TrainLoader, "batches", cut):
        train(config, -1)


def order(config):
    """Return the stream of samples, from the ledgers of all ranks."""
    return [key for _, keys in sorted(read_ledger(config)[0].items()) for key in keys]


def losses(config):
    return {
        row["step"]: row["train/total"]
        for row in read_journal(config.run_dir)
        if "train/total" in row
    }


@pytest.fixture
def alone(tiny_config, tmp_path):
    """Return the oracle's config, after its run."""
    config = override(tiny_config, LONG)
    train(config, -1)
    return config


@pytest.mark.processes
@pytest.mark.parametrize("counts", [[(2, 99)], [(3, 99)], [(4, 99)], [(2, 2), (3, 4), (1, 99)]])
def test_any_number_of_workers_has_the_same_order_and_losses(alone, tmp_path, counts):
    """Two, three and four workers; two, then three, then one within the first epoch."""
    config = override(alone, {"run_dir": f"{alone.run_dir}-other"})
    for count, until in counts:
        part = override(config, {"compute.num_workers": count})
        run_ranks(train_until, part, until, count=count, folder=tmp_path)
    expected = losses(alone)
    found = losses(config)
    assert found.keys() == expected.keys()
    gaps = [abs(found[step] / expected[step] - 1) for step in expected]
    assert max(gaps) < TOLERANCE, gaps
    most = override(config, {"compute.num_workers": max(count for count, _ in counts)})
    assert order(most) == order(alone)


def test_fewer_workers_than_the_fewest_are_refused(tiny_config):
    config = override(
        tiny_config,
        {"compute.num_workers": 4, "compute.min_workers": 2, "compute.max_restarts": -1},
    )
    with pytest.raises(ValueError, match="got 2 to 4, but 1 are running"):
        worker(config)
    with pytest.raises(ValueError, match=r"compute.min_workers: got 5, expected 0\.\.4"):
        override(config, {"compute.min_workers": 5})
