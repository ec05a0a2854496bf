"""Not a test: a real S3 server, SeaweedFS from its wheel, on free ports of this machine."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

KEY, SECRET = "mindeye-test", "mindeye-test-secret"


@contextmanager
def server(folder):
    """Run the server on an empty folder and yield the environment that clients need."""
    ports = free_ports(8)
    identity = folder / "s3.json"
    user = {
        "name": "test",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    identity.write_text(json.dumps({"identities": [user]}))
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    flags = [f"-{name}={port}" for name, port in zip(names, ports[:4], strict=True)]
    flags += [f"-{name}.grpc={port}" for name, port in zip(names, ports[4:], strict=True)]
    flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={identity}", "-ip=127.0.0.1"]
    weed = Path(sys.executable).parent / "weed"
    log = (folder / "weed.log").open("w")
    process = subprocess.Popen(
        [str(weed), "server", f"-dir={folder}", "-s3", *flags], stdout=log, stderr=log
    )
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[3]}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        make_bucket(environment, process)
        yield environment
    finally:
        process.kill()
        process.wait()
        log.close()


def make_bucket(environment, process):
    """Make the bucket `lab`, once the server answers."""
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the S3 server ended"
        try:
            client.create_bucket(Bucket="lab")
        except (BotoCoreError, ClientError):
            assert time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.3)
        else:
            return


def free_ports(count):
    """Return ports that nobody listens on, below those that the system hands out."""
    sockets = [socket.socket() for _ in range(count)]
    # Each process looks elsewhere: two that test at once would find the same port free.
    first = 21_000 + 97 * os.getpid() % 7_000
    for number, s in enumerate(sockets):
        for port in range(first + 613 * number, 32_768):
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            break
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
