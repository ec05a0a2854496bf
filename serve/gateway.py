"""The routes: HTTP in, HTTP out; between them only what `Models` promises.

Under Ray Serve the models are other deployments, in the bench's plain server they are objects of
the same process: the routes do not know.
"""

import asyncio
import base64
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as PathNumber
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from jaxtyping import Float
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from mindeye_dist.storage import npy
from serve.auth import Tokens
from serve.bodies import NPY, RefusedError, many_brains, one_brain
from serve.deadlines import DRAWING_AT_ONCE, WORKING_AT_ONCE, Ready, bounded, lines
from serve.guard import REASONS, Guard, Watch
from serve.schema import (
    MAX_CANDIDATES,
    MAX_MATCHES,
    BatchBody,
    Embedding,
    ModelCard,
    PictureFormat,
    Problem,
    Reconstruction,
    Retrieval,
    Samples,
    Task,
    VoxelsBody,
)
from serve.settings import Limits

PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
IMAGES: tuple[PictureFormat, ...] = ("png", "webp")

Row = Float[np.ndarray, " voxels"]
PictureQuery = Annotated[PictureFormat, Query(description="How pictures are sent, or none.")]
CountQuery = Annotated[int, Query(ge=1, le=MAX_MATCHES, description="Pictures to find.")]
CandidatesQuery = Annotated[
    int, Query(ge=0, le=MAX_CANDIDATES, description="Pictures to draw; 0 for as many as there are.")
]
Number = Annotated[int, PathNumber(ge=0, lt=10**9)]


class Models(Protocol):
    """What is behind the routes; each raises RefusedError for what it does not answer."""

    async def embed(self, voxels: Row) -> tuple[str, Float[np.ndarray, " features"]]:
        """Return the model's version, and the embedding."""
        ...

    async def retrieve(self, voxels: Row, k: int, pictures: PictureFormat) -> Retrieval:
        """Return the nearest pictures."""
        ...

    async def reconstruct(
        self, voxels: Row, candidates: int, pictures: PictureFormat
    ) -> Reconstruction:
        """Return drawn pictures; `candidates` 0 is the model's own number."""
        ...

    async def card(self) -> ModelCard:
        """Return what is served."""
        ...

    async def samples(self) -> Samples:
        """Return how many responses of the simulated subject there are to try."""
        ...

    async def sample(self, number: int) -> tuple[Float[np.ndarray, "repeats voxels"], bytes]:
        """Return one of them, and the picture that was seen."""
        ...

    async def metrics(self) -> str:
        """Return the metrics of this machine, in Prometheus's words."""
        ...


def make_app(
    models: Models, tokens: Tokens | None, limits: Limits, watch: Watch | None = None
) -> Guard:
    """Return the routes behind the guard, which lets anybody see the page and whether it lives."""
    open_paths = [*page_files(), *OPEN]
    return Guard(
        make_routes(models, limits), tokens, limits, watch or Watch(), open_paths=open_paths
    )


def make_routes(models: Models, limits: Limits) -> FastAPI:
    """Return the routes, without the guard."""
    app = FastAPI(
        title="mindeye-dist",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=OPENAPI,
        redirect_slashes=False,  # it would lead to whatever host the request named
    )
    _handle_problems(app)
    _add_page(app)
    _add_facts(app, models, limits)
    _add_answers(app, models, limits)
    _add_batch(app, models, limits)
    _complete(app)
    return app


OPENAPI = "/openapi.json"
OPEN = ("/healthz", "/readyz")
BY_GUARD = (400, 413, 415, 431)
BY_GUARD_UNLESS_OPEN = (401, 429)
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": reason} for status, reason in REASONS.items()
}


def _handle_problems(app: FastAPI) -> None:
    def problem(request: Request, status: int, message: str, retry_after: float = 0) -> Response:
        content = {"error": message, "request_id": request.scope["state"].get("request_id", "")}
        headers = {"Retry-After": str(max(1, round(retry_after)))} if retry_after else {}
        return JSONResponse(content, status, headers)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return problem(request, error.status, error.message, error.retry_after)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # Names of settings are ours, what was given for them is not repeated.
        first = error.errors()[0]
        known = {"k", "pictures", "candidates", "task", "number"}
        name = next((str(part) for part in first["loc"] if part in known), "request")
        return problem(request, 422, f"{name}: {first['msg']}"[:200])

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        words = {404: "no such route", 405: "not by this method"}
        return problem(request, error.status_code, words.get(error.status_code, "malformed"))


def page_files() -> dict[str, Path]:
    """Return the files of the page by their route."""
    files = sorted(path for path in PAGE.iterdir() if path.suffix in PAGE_TYPES)
    return {"/" if file.name == "index.html" else f"/{file.name}": file for file in files}


def _add_page(app: FastAPI) -> None:
    def serve_file(route: str, file: Path) -> None:
        body = file.read_bytes()

        @app.get(route, include_in_schema=False)
        async def page() -> Response:
            return Response(body, media_type=PAGE_TYPES[file.suffix])

    for route, file in page_files().items():
        serve_file(route, file)


def _add_facts(app: FastAPI, models: Models, limits: Limits) -> None:
    ready = Ready(lambda: models.card())

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the gateway lives."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: _PROBLEMS[503]})
    async def readyz() -> dict[str, str]:
        """Say that the models answer."""
        await ready()
        return {"status": "ready"}

    @app.get("/metrics", responses=_sent("text/plain"), response_class=Response)
    async def metrics() -> Response:
        """Return the metrics of this machine for Prometheus."""
        return Response(await models.metrics(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/model", responses=_some(503, 504))
    async def model() -> ModelCard:
        """Tell what is served."""
        return await bounded(models.card(), limits.request_seconds)

    @app.get("/v1/samples", responses=_some(503, 504))
    async def samples() -> Samples:
        """Tell how many responses of the simulated subject there are to try."""
        return await bounded(models.samples(), limits.request_seconds)

    missing = _some(404, 422, 503, 504)

    @app.get("/v1/samples/{number}", responses=_sent(NPY[0]) | missing, response_class=Response)
    async def sample(number: Number) -> Response:
        """Return the responses of the simulated subject to a test picture, (repeats, voxels)."""
        voxels, _ = await bounded(models.sample(number), limits.request_seconds)
        return NpyResponse(npy.encode(voxels))

    @app.get(
        "/v1/samples/{number}/picture",
        responses=_sent("image/webp") | missing,
        response_class=Response,
    )
    async def sample_picture(number: Number) -> Response:
        """Return the picture that was seen."""
        _, picture = await bounded(models.sample(number), limits.request_seconds)
        return Response(picture, media_type="image/webp")


def _add_answers(app: FastAPI, models: Models, limits: Limits) -> None:
    extra = body_of(VoxelsBody)

    async def voxels(request: Request) -> Row:
        return one_brain(await request.body(), request.headers.get("content-type", ""), limits)

    either = _sent(NPY[0]) | ANSWERED

    @app.post("/v1/embed", response_model=Embedding, responses=either, openapi_extra=extra)
    async def embed(request: Request) -> Response:
        """Return the projector's embedding; as .npy if `Accept` asks for application/x-npy."""
        version, row = await bounded(models.embed(await voxels(request)), limits.request_seconds)
        if NPY[0] in request.headers.get("accept", ""):
            return NpyResponse(npy.encode(row), headers={"X-Model-Version": version})
        return as_json(Embedding(model=version, embedding=row.tolist()))

    @app.post("/v1/retrieve", response_model=Retrieval, responses=ANSWERED, openapi_extra=extra)
    async def retrieve(
        request: Request, k: CountQuery = 5, pictures: PictureQuery = "none"
    ) -> Response:
        """Return the gallery's nearest pictures, and how far ahead the best one is."""
        row = await voxels(request)
        return as_json(await bounded(models.retrieve(row, k, pictures), limits.request_seconds))

    drawing = _sent(*(f"image/{form}" for form in IMAGES)) | ANSWERED | _some(404)

    @app.post(
        "/v1/reconstruct", response_model=Reconstruction, responses=drawing, openapi_extra=extra
    )
    async def reconstruct(
        request: Request, candidates: CandidatesQuery = 0, pictures: PictureQuery = "webp"
    ) -> Response:
        """Draw pictures and choose one, without the true picture having a say.

        The chosen one alone if `Accept` asks for image/png or image/webp.
        """
        row, accept = await voxels(request), request.headers.get("accept", "")
        alone: PictureFormat = next((f for f in IMAGES if f"image/{f}" in accept), "none")
        drawn = models.reconstruct(row, candidates, pictures if alone == "none" else alone)
        answer: Reconstruction = await bounded(drawn, limits.request_seconds)
        if alone == "none":
            return as_json(answer)
        _, _, picture = answer.candidates[answer.chosen].picture.partition(",")
        headers = {"X-Model-Version": answer.model}
        return Response(base64.b64decode(picture), media_type=f"image/{alone}", headers=headers)


def _add_batch(app: FastAPI, models: Models, limits: Limits) -> None:
    @app.post(
        "/v1/batch",
        response_class=Response,
        responses=_sent(NdjsonResponse.media_type) | ANSWERED,
        openapi_extra=body_of(BatchBody),
    )
    async def batch(
        request: Request,
        task: Task,
        k: CountQuery = 5,
        candidates: CandidatesQuery = 0,
        pictures: PictureQuery = "none",
    ) -> StreamingResponse:
        """Answer many brains, a JSON line each (`BatchLine`), as they are finished."""
        kind = request.headers.get("content-type", "")
        rows = await asyncio.to_thread(many_brains, await request.body(), kind, limits)

        async def one(row: Row) -> Embedding | Retrieval | Reconstruction:
            if task == "embed":
                version, embedding = await models.embed(row)
                return Embedding(model=version, embedding=embedding.tolist())
            if task == "retrieve":
                return await models.retrieve(row, k, pictures)
            return await models.reconstruct(row, candidates, pictures)

        at_once = {"reconstruct": DRAWING_AT_ONCE}.get(task, WORKING_AT_ONCE)
        return NdjsonResponse(lines(rows, one, limits.request_seconds, at_once))


class NpyResponse(Response):
    """An array."""

    media_type = NPY[0]


class NdjsonResponse(StreamingResponse):
    """Lines of JSON."""

    media_type = "application/x-ndjson"


def as_json(answer: BaseModel) -> Response:
    """Return a model as JSON, written by pydantic's own writer."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _some(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _PROBLEMS[status] for status in statuses}


def _sent(*media_types: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {kind: {"schema": {"type": "string"}} for kind in media_types}}}


ANSWERED = _some(408, 422, 503, 504)


def body_of(model: type[VoxelsBody] | type[BatchBody]) -> dict[str, Any]:
    """Return what OpenAPI is to say of a body that is read by hand."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    example = {"voxels": schema["properties"]["voxels"]["examples"][0]}
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {"application/json": {"schema": schema, "example": example}, NPY[0]: binary}
    return {"requestBody": {"required": True, "content": content}}


def _complete(app: FastAPI) -> None:
    """Add to OpenAPI what the guard before the routes asks for and answers."""
    told = app.openapi()  # written once, and kept by the app
    told["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, methods in told["paths"].items():
        more = () if path in OPEN else BY_GUARD_UNLESS_OPEN
        for route in methods.values():
            for status in (*BY_GUARD, *more):
                route["responses"][str(status)] = {
                    "description": REASONS[status],
                    "content": content,
                }
            if path not in OPEN:
                route["security"] = [{"bearer": []}]
