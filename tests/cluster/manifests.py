"""Not a test: the files of cluster/ as data, with YAML's aliases expanded to copies."""

import json
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))
CLUSTER_SPECS = {
    "RayCluster": ("spec",),
    "RayJob": ("spec", "rayClusterSpec"),
    "RayService": ("spec", "rayClusterConfig"),
}
"""Path of the Ray cluster's spec in an object of each kind."""


@cache
def as_json(path):
    loaded = yaml.load_all(path.read_text(), yaml.CSafeLoader)
    return json.dumps([each for each in loaded if each])


def read(path):
    """Return new copies of the objects in a YAML file."""
    return json.loads(as_json(path))


def documents():
    """Return all objects of cluster/kuberay."""
    return [document for path in KUBERAY for document in read(path)]


def name_of(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def named(name):
    """Return the object named KIND/NAME."""
    return next(document for document in documents() if name_of(document) == name)


def cluster_spec(document):
    """Return the spec of an object's Ray cluster; None if it makes no cluster."""
    found = document
    for key in CLUSTER_SPECS.get(document["kind"], ("",)):
        found = found.get(key)
        if found is None:
            return None
    return found


def pod_templates(document):
    """Return an object's pod templates by role: head, submitter, or the worker group's name."""
    found = {}
    if spec := cluster_spec(document):
        found["head"] = spec["headGroupSpec"]["template"]
        for group in spec.get("workerGroupSpecs", []):
            found[group["groupName"]] = group["template"]
    if submitter := document["spec"].get("submitterPodTemplate") if "spec" in document else None:
        found["submitter"] = submitter
    return found
