"""MLflow's registry, on a real data base; and a server that is not there."""

from pathlib import Path

import pytest

from jobs.registry import end_parent, register, resolve, set_alias, start_parent
from jobs.runs import given
from jobs.tracking import tracked
from jobs.worker import worker
from mindeye_dist.checkpoint import CheckpointError, Checkpoints, verify
from mindeye_dist.engine.journal import TRACKED_RUN
from mindeye_dist.strict import override
from tests.s3 import free_ports

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


@pytest.fixture
def trained(tiny_config):
    config = override(
        tiny_config, {"tracking.mlflow": "sqlite", "training.epochs": 2, "training.seed": 1}
    )
    Path(config.run_dir).mkdir()
    parent = start_parent(config, {"trials": 1})
    with tracked(config, parent) as trackers:
        worker(config, trackers)
    return config, parent


def test_an_alias_leads_to_the_checkpoint(trained, tmp_path):
    config, parent = trained
    database = f"sqlite:///{Path(config.run_dir).parent / 'mlflow.db'}"
    run_id = (Path(config.run_dir) / TRACKED_RUN).read_text()
    best = Checkpoints(config.run_dir, 1).best()
    version = register(config, run_id, best, "lab", {"trial": "t0"})
    assert set_alias(config, version, "champion") == "models:/lab@champion"
    for name in (version, "models:/lab@champion"):
        found = given(name, database)
        verify(found)  # all files, and their digests
        assert (found / "manifest.json").read_text() == (best / "manifest.json").read_text()
    assert register(config, run_id, best, "lab", {}) == "models:/lab/2"
    assert resolve("models:/lab@champion", database) == given(version, database)  # still the first
    page = tmp_path / "report.html"
    page.write_text("page")
    end_parent(config, parent, {"val/score": 0.5}, page)
    with pytest.raises(CheckpointError, match="models:/lab@other: not in the registry"):
        given("models:/lab@other", database)


def test_a_dead_server_costs_no_sweep(tiny_config, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    (port,) = free_ports(1)
    config = override(tiny_config, {"tracking.mlflow": f"http://127.0.0.1:{port}"})
    assert start_parent(config, {}) == ""
    assert "the sweep goes on without it" in caplog.text
    with pytest.raises(ValueError, match=f"mlflow: http://127.0.0.1:{port}"):
        register(config, "0" * 32, Path("nowhere"), "lab", {})
