"""The manifests fit the schemas of KubeRay and Kubernetes, to the last field."""

import copy
import os
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from tests.cluster.manifests import KUBERAY, documents, name_of, named, pod_templates, read

SCHEMAS = os.environ.get("MINDEYE_SCHEMAS", "")
RAY_KINDS = ("RayCluster", "RayJob", "RayService")
needs_schemas = pytest.mark.skipif(
    not SCHEMAS, reason="MINDEYE_SCHEMAS names no folder with KubeRay's CRDs"
)


def closed(schema):
    """Return a CRD's schema made to refuse unknown fields, which Kubernetes drops silently."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    done = {key: closed(value) for key, value in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not free:
        done.setdefault("additionalProperties", False)
    return done


@cache
def validator(kind):
    path = Path(SCHEMAS) / "kuberay" / f"ray.io_{kind.lower()}s.yaml"
    crd = yaml.load(path.read_text(), yaml.CSafeLoader)
    version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
    return jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))


def errors(document):
    found = validator(document["kind"]).iter_errors(document)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in found]


@pytest.fixture(scope="module", autouse=True)
def _read_once():
    """Cache Kubernetes' schemas, which the validator reads anew for each object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


def valid_in_kubernetes(document):
    newest = kubernetes_validate.latest_version()
    return kubernetes_validate.validate(document, newest, strict=True)


@needs_schemas
@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_ray_objects_fit_the_crds(path):
    """Oracle: the openAPI schemas of KubeRay's own CRDs, closed."""
    for document in read(path):
        if document["kind"] in RAY_KINDS:
            assert document["apiVersion"] == "ray.io/v1"
            assert errors(document) == []


@needs_schemas
@pytest.mark.parametrize("kind", RAY_KINDS)
def test_planted_typos_and_types_are_found(kind):
    """Oracle: a planted mistake."""
    right = next(document for document in documents() if document["kind"] == kind)
    typo = copy.deepcopy(right)
    pod_templates(typo)["head"]["spec"]["containers"][0]["imagePullPolcy"] = "Always"
    assert any("imagePullPolcy" in error for error in errors(typo))
    wrong = copy.deepcopy(right)
    pod_templates(wrong)["gpu" if kind != "RayJob" else "gpu-spot"]["spec"]["containers"] = {}
    assert any("not of type 'array'" in error for error in errors(wrong))
    unknown = copy.deepcopy(right)
    unknown["spec"]["shutdownAfterJobFinish"] = True
    assert any("shutdownAfterJobFinish" in error for error in errors(unknown))


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_kubernetes_own_objects_and_pods_are_valid(path):
    """Oracle: Kubernetes' own schemas, strict."""
    for document in read(path):
        if document["kind"] not in RAY_KINDS:
            valid_in_kubernetes(document)
        for template in pod_templates(document).values():
            pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
            pod["metadata"] = {"name": "pod", **template.get("metadata", {})}
            valid_in_kubernetes(pod)


def test_a_planted_typo_in_a_network_policy_is_found():
    """Oracle: a planted mistake."""
    policy = named("NetworkPolicy/deny-all")
    policy["spec"]["podSelectors"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="podSelectors"):
        valid_in_kubernetes(policy)


def test_every_object_is_in_the_namespace_and_has_a_name_of_its_own():
    """Oracle: the objects; Kubernetes would put others into `default`, or overwrite namesakes."""
    found = documents()
    namespace = next(each for each in found if each["kind"] == "Namespace")["metadata"]["name"]
    for document in found:
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == namespace
    names = [name_of(document) for document in found]
    assert len(set(names)) == len(names)
