"""The service keeps the promises of its OpenAPI, for valid and invalid requests.

Oracle: schemathesis's checks of statuses, content types and bodies, by the service's own schema.
"""

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve.gateway import OPEN_PATHS, make_routes
from serve.schema import BatchBody, VoxelsBody
from serve.settings import Limits
from tests.local_service import TOKEN
from tests.serve.wire import JSON, MARK, NPY, NUM_VOXELS, npy

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
schemathesis.serializer.alias(NPY, "application/octet-stream")
AUTH = {"Authorization": f"Bearer {TOKEN}"}
WRITTEN = make_routes(None, Limits()).openapi()
ROUTES = [(path, method) for path, methods in WRITTEN["paths"].items() for method in methods]
BRAIN = [0.5] * NUM_VOXELS
RIGHT = {
    "/v1/samples/{number}": {"path_parameters": {"number": 3}},
    "/v1/samples/{number}/picture": {"path_parameters": {"number": 3}},
    "/v1/embed": {"body": {"voxels": BRAIN}},
    "/v1/retrieve": {"body": {"voxels": [BRAIN, BRAIN]}, "query": {"k": 3, "pictures": "webp"}},
    "/v1/reconstruct": {"body": {"voxels": BRAIN}, "query": {"candidates": 1}},
    "/v1/batch": {"body": {"voxels": [BRAIN, BRAIN]}, "query": {"task": "retrieve"}},
}


@pytest.fixture(scope="module")
def schema(served):
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json", headers=AUTH)


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_generated_requests_get_promised_answers(path, method, schema):
    """Requests that fit the schema and that violate it; few of them fit the brain."""
    operation = schema[path][method]
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @hypothesis.settings(
        max_examples=15,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy() | wrong)
    def ask(case):
        case.call_and_validate(checks=CHECKS, headers=AUTH)

    ask()


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_valid_requests_get_promised_answers(path, method, schema):
    """Requests that fit the brain; oracle also: status 200."""
    operation = schema[path][method]
    right = RIGHT.get(path, {})
    case = operation.Case(**right, **({"media_type": JSON} if "body" in right else {}))
    reply = case.call(headers=AUTH)
    assert reply.status_code == 200
    case.validate_response(reply, checks=CHECKS)


def test_embedding_as_npy_is_promised_too(schema, served):
    operation = schema["/v1/embed"]["post"]
    case = operation.Case(body=npy(), media_type=NPY)
    reply = case.call(headers=AUTH | {"Accept": NPY})
    assert (reply.status_code, reply.headers["content-type"]) == (200, [NPY])
    case.validate_response(reply, checks=CHECKS)


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_token_is_needed_where_openapi_says_so(path, method, served):
    operation = WRITTEN["paths"][path][method]
    url = f"{served.url}{path.replace('{number}', '0')}"
    refused = [
        requests.request(method, url, headers=headers, timeout=20).status_code == 401
        for headers in ({}, {"Authorization": f"Bearer {MARK}"})
    ]
    needs = operation.get("security") == [{"bearer": []}]
    assert refused == [needs, needs]
    assert needs == (path not in OPEN_PATHS)
    assert ("401" in operation["responses"]) == needs
    assert WRITTEN["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


@pytest.mark.parametrize(("path", "method"), [route for route in ROUTES if route[1] == "post"])
def test_bodies_have_examples(path, method):
    """Oracle: the pydantic models of the bodies."""
    content = WRITTEN["paths"][path][method]["requestBody"]["content"]
    model = BatchBody if path == "/v1/batch" else VoxelsBody
    assert model.model_validate(content[JSON]["example"])
    assert set(content) == {JSON, NPY}
