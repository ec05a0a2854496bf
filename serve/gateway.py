"""The HTTP routes and their OpenAPI, written against the protocol `Models`.

Under Ray Serve the models are other deployments; in the tests' plain server they are objects of the
same process.
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
from serve.bodies import NPY_TYPES, RefusedError, Row, read_brain, read_brains
from serve.deadlines import (
    CONCURRENT_BRAINS,
    CONCURRENT_DRAWINGS,
    Readiness,
    stream_batch,
    with_timeout,
)
from serve.guard import REASONS, Guard, RequestObserver
from serve.schema import (
    MAX_CANDIDATES,
    MAX_MATCHES,
    BatchBody,
    BatchTask,
    Embedding,
    ModelCard,
    PictureFormat,
    Problem,
    Reconstruction,
    Retrieval,
    Samples,
    VoxelsBody,
)
from serve.settings import Limits

PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
IMAGES: tuple[PictureFormat, ...] = ("png", "webp")

PictureQuery = Annotated[PictureFormat, Query(description="Format of the pictures, or none.")]
CountQuery = Annotated[
    int, Query(ge=1, le=MAX_MATCHES, description="Number of pictures to retrieve.")
]
CandidatesQuery = Annotated[
    int,
    Query(ge=0, le=MAX_CANDIDATES, description="Number of pictures to draw; 0 for the maximum."),
]
Number = Annotated[int, PathNumber(ge=0, lt=10**9)]


class Models(Protocol):
    """The models as the routes call them; a refused request raises RefusedError."""

    async def embed(self, voxels: Row) -> tuple[str, Float[np.ndarray, " features"]]:
        """Return the model's version and the embedding, of unit norm."""
        ...

    async def retrieve(self, voxels: Row, k: int, pictures: PictureFormat) -> Retrieval:
        """Return the k nearest gallery pictures."""
        ...

    async def reconstruct(
        self, voxels: Row, candidates: int, pictures: PictureFormat
    ) -> Reconstruction:
        """Return drawn pictures; 0 candidates draw the maximum."""
        ...

    async def card(self) -> ModelCard:
        """Return the model card."""
        ...

    async def samples(self) -> Samples:
        """Return the number and shape of the sample responses."""
        ...

    async def sample(self, number: int) -> tuple[Float[np.ndarray, "repeats voxels"], bytes]:
        """Return a sample's responses and the seen picture as WebP."""
        ...

    async def metrics(self) -> str:
        """Return this machine's metrics in Prometheus's text format."""
        ...


def make_app(
    models: Models, tokens: Tokens | None, limits: Limits, observer: RequestObserver | None = None
) -> Guard:
    """Return the routes behind the guard; the page and the health checks need no token."""
    open_paths = [*page_files(), *OPEN_PATHS]
    return Guard(
        make_routes(models, limits),
        tokens,
        limits,
        observer or RequestObserver(),
        open_paths=open_paths,
    )


def make_routes(models: Models, limits: Limits) -> FastAPI:
    """Return the routes, without the guard."""
    app = FastAPI(
        title="mindeye-dist",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=OPENAPI,
        redirect_slashes=False,  # a redirect would lead to any host that the request names
    )
    _handle_problems(app)
    _add_page(app)
    _add_information(app, models, limits)
    _add_single_brains(app, models, limits)
    _add_batch(app, models, limits)
    _document_guard(app)
    return app


OPENAPI = "/openapi.json"
OPEN_PATHS = ("/healthz", "/readyz")
GUARD_STATUSES = (400, 413, 415, 431)
TOKEN_STATUSES = (401, 429)
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": reason} for status, reason in REASONS.items()
}


def _handle_problems(app: FastAPI) -> None:
    """Answer every error as a `Problem` that repeats nothing from the request."""

    def problem(request: Request, status: int, message: str, retry_after: float = 0) -> Response:
        content = {"error": message, "request_id": request.scope["state"].get("request_id", "")}
        headers = {"Retry-After": str(max(1, round(retry_after)))} if retry_after else {}
        return JSONResponse(content, status, headers)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return problem(request, error.status, error.message, error.retry_after)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # The message names one of these parameters, never its value.
        first = error.errors()[0]
        parameters = {"k", "pictures", "candidates", "task", "number"}
        name = next((str(part) for part in first["loc"] if part in parameters), "request")
        return problem(request, 422, f"{name}: {first['msg']}"[:200])

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        words = {404: "no such route", 405: "method not allowed"}
        return problem(request, error.status_code, words.get(error.status_code, "malformed"))


def page_files() -> dict[str, Path]:
    """Return the page's files by route."""
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


def _add_information(app: FastAPI, models: Models, limits: Limits) -> None:
    readiness = Readiness(lambda: models.card())

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Liveness: the gateway runs."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: _PROBLEMS[503]})
    async def readyz() -> dict[str, str]:
        """Readiness: the models answer."""
        await readiness.check()
        return {"status": "ready"}

    @app.get("/metrics", responses=_content("text/plain"), response_class=Response)
    async def metrics() -> Response:
        """Metrics of this machine in Prometheus's text format."""
        return Response(await models.metrics(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/model", responses=_problems(503, 504))
    async def model() -> ModelCard:
        """Card of the served model."""
        return await with_timeout(models.card(), limits.request_seconds)

    @app.get("/v1/samples", responses=_problems(503, 504))
    async def samples() -> Samples:
        """Number and shape of the sample responses, those of a simulated subject."""
        return await with_timeout(models.samples(), limits.request_seconds)

    sample_problems = _problems(404, 422, 503, 504)

    @app.get(
        "/v1/samples/{number}",
        responses=_content(NPY_TYPES[0]) | sample_problems,
        response_class=Response,
    )
    async def sample(number: Number) -> Response:
        """Responses of the simulated subject to a test picture, (repeats, voxels)."""
        voxels, _ = await with_timeout(models.sample(number), limits.request_seconds)
        return NpyResponse(npy.encode(voxels))

    @app.get(
        "/v1/samples/{number}/picture",
        responses=_content("image/webp") | sample_problems,
        response_class=Response,
    )
    async def sample_picture(number: Number) -> Response:
        """The seen picture of a sample."""
        _, picture = await with_timeout(models.sample(number), limits.request_seconds)
        return Response(picture, media_type="image/webp")


def _add_single_brains(app: FastAPI, models: Models, limits: Limits) -> None:
    extra = body_of(VoxelsBody)

    async def voxels(request: Request) -> Row:
        return read_brain(await request.body(), request.headers.get("content-type", ""), limits)

    @app.post(
        "/v1/embed",
        response_model=Embedding,
        responses=_content(NPY_TYPES[0]) | ANSWER_PROBLEMS,
        openapi_extra=extra,
    )
    async def embed(request: Request) -> Response:
        """The projector's embedding; as .npy if `Accept` asks for application/x-npy."""
        row = await voxels(request)
        version, embedding = await with_timeout(models.embed(row), limits.request_seconds)
        if NPY_TYPES[0] in request.headers.get("accept", ""):
            return NpyResponse(npy.encode(embedding), headers={"X-Model-Version": version})
        return as_json(Embedding(model=version, embedding=embedding.tolist()))

    @app.post(
        "/v1/retrieve", response_model=Retrieval, responses=ANSWER_PROBLEMS, openapi_extra=extra
    )
    async def retrieve(
        request: Request, k: CountQuery = 5, pictures: PictureQuery = "none"
    ) -> Response:
        """The gallery's nearest pictures, and the lead of the best over the second."""
        row = await voxels(request)
        return as_json(
            await with_timeout(models.retrieve(row, k, pictures), limits.request_seconds)
        )

    images = _content(*(f"image/{form}" for form in IMAGES))

    @app.post(
        "/v1/reconstruct",
        response_model=Reconstruction,
        responses=images | ANSWER_PROBLEMS | _problems(404),
        openapi_extra=extra,
    )
    async def reconstruct(
        request: Request, candidates: CandidatesQuery = 0, pictures: PictureQuery = "webp"
    ) -> Response:
        """Pictures drawn from the brain, one of them chosen by its similarity with the embedding.

        The chosen picture alone if `Accept` asks for image/png or image/webp.
        """
        row, accept = await voxels(request), request.headers.get("accept", "")
        image_format: PictureFormat = next((f for f in IMAGES if f"image/{f}" in accept), "none")
        drawn = models.reconstruct(
            row, candidates, pictures if image_format == "none" else image_format
        )
        answer: Reconstruction = await with_timeout(drawn, limits.request_seconds)
        if image_format == "none":
            return as_json(answer)
        _, _, picture = answer.candidates[answer.chosen].picture.partition(",")
        headers = {"X-Model-Version": answer.model}
        return Response(
            base64.b64decode(picture), media_type=f"image/{image_format}", headers=headers
        )


def _add_batch(app: FastAPI, models: Models, limits: Limits) -> None:
    @app.post(
        "/v1/batch",
        response_class=Response,
        responses=_content(NdjsonResponse.media_type) | ANSWER_PROBLEMS,
        openapi_extra=body_of(BatchBody),
    )
    async def batch(
        request: Request,
        task: BatchTask,
        k: CountQuery = 5,
        candidates: CandidatesQuery = 0,
        pictures: PictureQuery = "none",
    ) -> StreamingResponse:
        """Answers to many brains, a JSON line each (`BatchLine`), as they are finished."""
        content_type = request.headers.get("content-type", "")
        rows = await asyncio.to_thread(read_brains, await request.body(), content_type, limits)

        async def answer(row: Row) -> Embedding | Retrieval | Reconstruction:
            if task == "embed":
                version, embedding = await models.embed(row)
                return Embedding(model=version, embedding=embedding.tolist())
            if task == "retrieve":
                return await models.retrieve(row, k, pictures)
            return await models.reconstruct(row, candidates, pictures)

        concurrency = {"reconstruct": CONCURRENT_DRAWINGS}.get(task, CONCURRENT_BRAINS)
        return NdjsonResponse(stream_batch(rows, answer, limits.request_seconds, concurrency))


class NpyResponse(Response):
    """Response with a .npy body."""

    media_type = NPY_TYPES[0]


class NdjsonResponse(StreamingResponse):
    """Streamed response of JSON lines."""

    media_type = "application/x-ndjson"


def as_json(answer: BaseModel) -> Response:
    """Return a JSON response, serialized by pydantic."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _PROBLEMS[status] for status in statuses}


def _content(*media_types: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {kind: {"schema": {"type": "string"}} for kind in media_types}}}


ANSWER_PROBLEMS = _problems(408, 422, 503, 504)


def body_of(model: type[VoxelsBody] | type[BatchBody]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that FastAPI does not parse."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    example = {"voxels": schema["properties"]["voxels"]["examples"][0]}
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {"application/json": {"schema": schema, "example": example}, NPY_TYPES[0]: binary}
    return {"requestBody": {"required": True, "content": content}}


def _document_guard(app: FastAPI) -> None:
    """Add the guard's tokens and refusals to the OpenAPI schema."""
    schema = app.openapi()  # the app caches this object
    schema["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, methods in schema["paths"].items():
        token_statuses = () if path in OPEN_PATHS else TOKEN_STATUSES
        for route in methods.values():
            for status in (*GUARD_STATUSES, *token_statuses):
                route["responses"][str(status)] = {
                    "description": REASONS[status],
                    "content": content,
                }
            if path not in OPEN_PATHS:
                route["security"] = [{"bearer": []}]
