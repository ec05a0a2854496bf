"""The client. Oracle: a server that breaks off its answers, as one on a lost machine does."""

import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests

from serve.client import Client
from serve.schema import Embedding

ANSWER = Embedding(model="m", embedding=[1.0, 0.0]).model_dump_json().encode()


@pytest.fixture
def breaking(request):
    """Return the URL of a server whose first answers end after their headers."""
    left = iter(range(request.param))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            if next(left, None) is None:
                self.wfile.write(ANSWER)
            self.close_connection = True

        def log_message(self, *_):
            pass

    with closing(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        server.close = server.server_close
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("breaking", [1, 3], indirect=True)
def test_call_is_repeated_when_its_answer_breaks_off(breaking):
    with Client(breaking, retries=3) as client:
        assert client.embed(np.zeros(4, np.float32)).model == "m"


@pytest.mark.parametrize("breaking", [9], indirect=True)
def test_calls_whose_answers_always_break_off_fail(breaking):
    with Client(breaking, retries=2) as client, pytest.raises(requests.RequestException):
        client.embed(np.zeros(4, np.float32))
