"""Connections between pods, by the network policies and the pods' actual labels."""

import pytest

from tests.cluster.manifests import documents, named, pod_templates
from tests.cluster.network import Pod, connects

GCS, DASHBOARD, SERVE, METRICS, ANY = 6379, 8265, 8000, 8080, 20001


def ray_pod(name, group):
    """Return a pod as KubeRay makes it: with the labels of the template and of KubeRay."""
    labels = dict(pod_templates(named(name))[group]["metadata"]["labels"])
    if group == "submitter":
        return Pod(labels)
    kind = "head" if group == "head" else "worker"
    return Pod({**labels, "ray.io/is-ray-node": "yes", "ray.io/node-type": kind})


PODS = {
    "train head": ray_pod("RayJob/mindeye-train", "head"),
    "train worker": ray_pod("RayJob/mindeye-train", "gpu-spot"),
    "submitter": ray_pod("RayJob/mindeye-train", "submitter"),
    "serve head": ray_pod("RayService/mindeye", "head"),
    "serve worker": ray_pod("RayService/mindeye", "gpu"),
    "client": Pod({"mindeye-dist/client": "true"}),
    "neighbour": Pod({"app": "notebook"}),
    "dns": Pod({"k8s-app": "kube-dns"}, "kube-system"),
    "operator": Pod({"app.kubernetes.io/component": "kuberay-operator"}, "kuberay-operator"),
    "impostor": Pod({"app.kubernetes.io/component": "kuberay-operator"}, "elsewhere"),
    "stranger": Pod({"mindeye-dist/client": "true"}, "elsewhere"),
    "prometheus": Pod({"app": "prometheus"}, "monitoring"),
}
REACHED = {
    ("train worker", "train head", GCS),
    ("train worker", "train head", DASHBOARD),
    ("train worker", "train head", SERVE),
    ("train worker", "train head", METRICS),
    ("train worker", "train head", ANY),
    ("submitter", "train head", DASHBOARD),
    ("submitter", "serve head", DASHBOARD),
    ("operator", "train head", DASHBOARD),
    ("operator", "serve head", DASHBOARD),
    ("operator", "serve head", SERVE),
    ("operator", "serve worker", SERVE),
    ("client", "serve head", SERVE),
    ("client", "serve worker", SERVE),
    ("prometheus", "train head", METRICS),
    ("prometheus", "train worker", METRICS),
    ("prometheus", "serve head", METRICS),
    ("prometheus", "serve worker", METRICS),
}


def policies():
    return [document for document in documents() if document["kind"] == "NetworkPolicy"]


def test_only_listed_connections_are_open():
    """Oracle: the table above, for all pairs of pods and ports; a cluster's pods are friends."""
    targets = ("train head", "train worker", "serve head", "serve worker", "client", "neighbour")
    within = [{"train head", "train worker"}, {"serve head", "serve worker"}]
    found = {
        (source, target, port)
        for source in PODS
        for target in targets
        for port in (GCS, DASHBOARD, SERVE, METRICS, ANY)
        if source != target and connects(policies(), PODS[source], PODS[target], port)
    }
    friends = {each for each in found if set(each[:2]) in within}
    strangers = {each for each in REACHED if set(each[:2]) not in within}
    assert found - friends == strangers
    assert {each for each in REACHED if set(each[:2]) in within} <= friends
    assert len(friends) == 2 * 2 * 5


@pytest.mark.parametrize("source", ["train head", "serve worker", "submitter", "client"])
def test_only_dns_of_other_namespaces_is_reachable(source):
    """Oracle: port 53 of DNS is open, any other is not."""
    assert connects(policies(), PODS[source], PODS["dns"], 53)
    assert not connects(policies(), PODS[source], PODS["dns"], 80)
    assert not connects(policies(), PODS[source], PODS["stranger"], 443)


def test_without_deny_all_neighbours_would_be_open():
    """Oracle: the rules of Kubernetes: a pod that no policy selects is open."""
    neighbour, stranger = PODS["neighbour"], PODS["stranger"]
    rest = [each for each in policies() if each["metadata"]["name"] not in ("deny-all", "dns")]
    assert connects(rest, neighbour, stranger, 443)
    assert not connects(policies(), neighbour, stranger, 443)
