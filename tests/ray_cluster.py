"""Not a test: a Ray cluster with tokens on free ports of this machine, and our service on it."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import yaml

from tests.conftest import ray_environment
from tests.s3 import free_ports

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TOKEN = "a-token-of-the-tests-0123456789"
ANY_PORTS = ("--min-worker-port=0", "--max-worker-port=0")
"""Else two clusters of one machine give their workers the same ones."""


@contextmanager
def head(num_cpus=2, **more):
    """Start a head with token authentication and yield the environment of its clients."""
    port, dashboard, client, agent = free_ports(4)
    command = [str(BIN / "ray"), "start", "--head", "--block"]
    ports = [
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}",  # its default may be another cluster's
        *ANY_PORTS,
    ]
    path = f"{BIN}:{os.environ['PATH']}"
    variables = ray_environment(RAY_AUTH_MODE="token", PATH=path, **more)
    token = [str(BIN / "ray"), "get-auth-token", "--generate"]
    subprocess.run(token, env=variables, check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, *ports, f"--num-cpus={num_cpus}"],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{dashboard}"
    try:
        await_dashboard(url, process)
        yield {
            **variables,
            "RAY_API_SERVER_ADDRESS": url,
            "RAY_DASHBOARD_ADDRESS": url,
            "RAY_HEAD_PID": str(process.pid),
            "RAY_HEAD_ADDRESS": f"127.0.0.1:{port}",
        }
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()


def await_dashboard(url, process):
    """Wait until a cluster's dashboard answers, be it by asking for the token."""
    deadline = time.monotonic() + 90
    while True:
        assert process.poll() is None, "ray start ended"
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError as answer:
            answer.close()  # 401: it is up, and asks for the token
            return
        except OSError:
            assert time.monotonic() < deadline, "the dashboard did not start"
            time.sleep(0.5)
        else:
            return


@contextmanager
def deployed(arguments, folder, num_cpus=8, **more):
    """Deploy the service on a cluster of its own by `serve deploy`.

    Yields:
        Its url, its token, the clients' environment, and Ray's logs.
    """
    token_file, config = Path(folder, "token"), Path(folder, "service.yaml")
    token_file.write_text(f"{TOKEN}\n")
    with head(num_cpus, **more) as environment:
        (port,) = free_ports(1)  # only now, or the head would take it
        application = {
            "name": "mindeye",
            "import_path": "serve.app:build",
            "route_prefix": "/",
            "args": {**arguments, "token_file": str(token_file)},
        }
        service = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": port},
            "applications": [application],
        }
        config.write_text(yaml.safe_dump(service))
        url = f"http://127.0.0.1:{port}"
        deploy(config, environment)
        await_ready(url, environment)
        logs = Path(environment["RAY_TMPDIR"], "ray", "session_latest", "logs")
        yield SimpleNamespace(url=url, token=TOKEN, environment=environment, logs=logs)


def deploy(config, environment):
    """Run `serve deploy`; the agent that takes it is there a while after the dashboard."""
    deadline = time.monotonic() + 90
    while True:
        command = [str(BIN / "serve"), "deploy", str(config)]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        if result.returncode == 0:
            return
        assert time.monotonic() < deadline, result.stderr[-3000:]
        time.sleep(2)


def status(environment):
    """Return what `serve status` says."""
    command = [str(BIN / "serve"), "status"]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return result.stdout + result.stderr


def await_ready(url, environment, seconds=240):
    """Wait until the service's models answer."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            urllib.request.urlopen(f"{url}/readyz", timeout=10).close()
            return
        assert time.monotonic() < deadline, status(environment)
        time.sleep(0.5)


def replicas(environment, deployment=""):
    """Return the living processes of a deployment's replicas, of all without a name."""
    return processes(environment, f"ServeReplica:mindeye:{deployment}")


def processes(environment, words):
    """Return the cluster's living processes in whose command line the words are."""
    found = []
    for process in psutil.Process(int(environment["RAY_HEAD_PID"])).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if words in " ".join(process.cmdline()):
                found.append(process)
    return found
