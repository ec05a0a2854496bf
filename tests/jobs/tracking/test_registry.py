"""MLflow's registry, on a real data base; and a server that is not there."""

from pathlib import Path

import pytest

from jobs.opening.checkpoints import fetch_named_checkpoint
from jobs.tracking.registry import end_parent, register, resolve, set_alias, start_parent
from jobs.tracking.session import tracked
from jobs.worker import worker
from mindeye_dist.errors import CheckpointError
from mindeye_dist.runs.checkpoints import Checkpoints, verify
from mindeye_dist.runs.folder import TRACKED_RUN
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.strict import override
from tests.mlflow_server import serving, stop
from tests.s3 import free_ports

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


@pytest.fixture
def trained(tiny_config):
    changes = {"training.epochs": 2, "checkpoint.every_steps": 3, "checkpoint.keep": 9}
    config = override(tiny_config, {"tracking.mlflow": "sqlite", "training.seed": 1, **changes})
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
        found = fetch_named_checkpoint(name, database)
        verify(found)  # all files, and their digests
        assert (found / "manifest.json").read_text() == (best / "manifest.json").read_text()
    assert register(config, run_id, best, "lab", {}) == "models:/lab/2"
    other = min(best.parent.glob("step-*"))
    assert other != best
    third = register(config, run_id, other, "lab", {})
    registered = [
        (fetch_named_checkpoint(v, database) / "manifest.json").read_text()
        for v in (version, third)
    ]
    assert registered == [(c / "manifest.json").read_text() for c in (best, other)]
    assert resolve("models:/lab@champion", database) == fetch_named_checkpoint(
        version, database
    )  # still the first
    (fetch_named_checkpoint(third, database) / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="registered was"):
        fetch_named_checkpoint(third, database)
    page = tmp_path / "report.html"
    page.write_text("page")
    end_parent(config, parent, {"val/score": 0.5}, page)
    with pytest.raises(CheckpointError, match="models:/lab@other: not in the registry"):
        fetch_named_checkpoint("models:/lab@other", database)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A tracking server that keeps the artefacts itself, and its URL."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # and as it was, afterwards
    (port,) = free_ports(1)
    with serving(port, tmp_path) as process:
        yield f"http://127.0.0.1:{port}", process


def test_a_server_keeps_the_champion_and_may_die_in_mid_run(
    server, tiny_config, tmp_path, monkeypatch, caplog
):
    """The champion is fetched once, whole, and stays at hand when its server is gone.

    Oracle of the run whose server died: the same run without tracking.
    """
    url, process = server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = override(tiny_config, {"tracking.mlflow": url, "training.epochs": 2})
    parent = start_parent(config, {"trials": 1})
    with tracked(config, parent) as trackers:
        worker(config, trackers)
    best = Checkpoints(config.run_dir, 1).best()
    run_id = (Path(config.run_dir) / TRACKED_RUN).read_text()
    version = register(config, run_id, best, "lab", {"trial": "t0"})
    found = resolve(version, url)
    verify(found)
    assert found.is_relative_to(tmp_path / "cache")
    assert (found / "manifest.json").read_text() == (best / "manifest.json").read_text()
    whole = found.stat().st_ino
    assert resolve(version, url).stat().st_ino == whole  # not fetched again
    assert [path.name for path in found.parent.iterdir()] == [found.name]  # nor left in pieces

    other = override(config, {"run_dir": str(tmp_path / "other")})
    with tracked(other, parent) as trackers:
        stop(process)
        worker(other, trackers)
    assert "mlflow" in caplog.text
    curves = [
        [row["val/score"] for row in read_journal(each.run_dir) if "val/score" in row]
        for each in (config, other)
    ]
    assert curves[0]
    assert curves[0] == curves[1]


def test_a_dead_server_costs_no_sweep(tiny_config, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    (port,) = free_ports(1)
    config = override(tiny_config, {"tracking.mlflow": f"http://127.0.0.1:{port}"})
    assert start_parent(config, {}) == ""
    assert "the sweep goes on without it" in caplog.text
    with pytest.raises(ValueError, match=f"mlflow: http://127.0.0.1:{port}"):
        register(config, "0" * 32, Path("nowhere"), "lab", {})
