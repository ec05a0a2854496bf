"""Not a test: a real MLflow server in a process of its own, on a data base that outlives it."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress


@contextmanager
def serving(port, folder):
    """Run a tracking server that keeps metrics and artefacts in a folder; gives its process."""
    words = ["--port", str(port), "--workers", "1", "--backend-store-uri"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *words, f"sqlite:///{folder / 'server.db'}"]
        + ["--artifacts-destination", str(folder / "artefacts")],
        # No runner of MLflow's own jobs, which nobody asks for: a third of what a start computes.
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await_server(f"http://127.0.0.1:{port}/health", process)
        yield process
    finally:
        stop(process)


def await_server(url, process):
    """Wait until the server answers."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, "mlflow server ended"
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.5)
        else:
            return


def stop(process):
    """Kill the server and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
