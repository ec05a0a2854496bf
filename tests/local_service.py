"""Not a test: the service's own routes and models in one process, by plain uvicorn, without Ray."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import uvicorn

from jobs.opening.checkpoints import chosen_checkpoint
from serve.auth import Tokens
from serve.bodies import RefusedError
from serve.drawer import Drawer
from serve.gateway import make_app
from serve.retriever import Retriever, version_of
from serve.settings import Service, read_settings

TOKEN = "a-token-of-the-tests-0123456789"


class LocalModels:
    """The models as objects of this process, one request at a time."""

    def __init__(self, settings: Service, drawer: bool = True) -> None:
        path, _ = chosen_checkpoint(settings)
        version = version_of(path, settings.name)
        self.retriever = Retriever(settings, path, version, "cpu")
        self.drawer = Drawer(settings, path, version, "cpu") if drawer else None
        self._busy = asyncio.Lock()

    async def embed(self, voxels):
        """Return version and embedding."""
        found = await self._one(self.retriever.embed, voxels)
        return found.model, found.embedding

    async def retrieve(self, voxels, k, pictures):
        """Return the nearest pictures."""
        return await self._one(self.retriever.retrieve, (voxels, k, pictures))

    async def reconstruct(self, voxels, candidates, pictures):
        """Return drawn pictures."""
        if self.drawer is None:
            raise RefusedError(404, "this service draws no pictures")
        return await self._one(self.drawer.reconstruct, (voxels, candidates, pictures))

    async def card(self):
        """Return what is served."""
        drawer = self.drawer
        return self.retriever.card(
            *((drawer.generator, drawer.max_candidates) if drawer else ("", 0))
        )

    async def samples(self):
        """Return how many samples there are."""
        return self.retriever.samples()

    async def sample(self, number):
        """Return a sample."""
        return self.retriever.sample(number)

    async def metrics(self):
        """Return nothing: there is no Ray."""
        return ""

    async def _one(self, compute, request):
        async with self._busy:
            answer = (await asyncio.to_thread(compute, [request]))[0]
        if isinstance(answer, RefusedError):
            raise answer
        return answer


@contextmanager
def serving(arguments, folder, models=None):
    """Run the service by uvicorn in a thread; yield its URL, token, settings and models."""
    token_file = Path(folder, "token")
    token_file.write_text(f"{TOKEN}\n")
    settings = read_settings({**arguments, "token_file": str(token_file)})
    models = models or LocalModels(settings, settings.pictures)
    app = make_app(models, Tokens(token_file), settings.limits)
    config = uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "uvicorn ended"
            time.sleep(0.02)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            yield SimpleNamespace(url=url, token=TOKEN, settings=settings, models=models)
        finally:
            server.should_exit = True
            thread.join(30)
