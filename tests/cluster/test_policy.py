"""Secure by default: no manifest violates the policy, and the policy finds planted violations."""

import pytest

from tests.cluster.manifests import documents, name_of, pod_templates
from tests.cluster.policy import violations

GONE = object()
JOB, SERVICE, DEV = "RayJob/mindeye-train", "RayService/mindeye", "RayCluster/mindeye-dev"
HEAD = "spec rayClusterSpec headGroupSpec template spec"
WORKER = "spec rayClusterConfig workerGroupSpecs 0 template spec"
SPOT = "spec workerGroupSpecs 1 template spec"
ACCESS = "NetworkPolicy/clients"
PLANTED = [
    (JOB, f"{HEAD} securityContext runAsNonRoot", False, "train head: may run as root"),
    (JOB, f"{HEAD} securityContext runAsUser", 0, "head: may run as root"),
    (JOB, f"{HEAD} containers 0 securityContext runAsUser", 0, "ray-head: may run as root"),
    (JOB, f"{HEAD} securityContext seccompProfile", GONE, "no seccomp profile"),
    (JOB, f"{HEAD} hostNetwork", True, "hostNetwork"),
    (JOB, f"{HEAD} hostPID", True, "hostPID"),
    (JOB, f"{HEAD} volumes 0", {"name": "tmp", "hostPath": {"path": "/"}}, "kind hostPath"),
    (JOB, f"{HEAD} containers 0 image", "mindeye-dist", "not pinned"),
    (JOB, f"{HEAD} containers 0 image", "mindeye-dist:latest", "not pinned"),
    (JOB, f"{HEAD} containers 0 ports 0 hostPort", 6379, "port of its machine"),
    (JOB, f"{HEAD} initContainers", [{"name": "i", "image": "a:1"}], "i: may gain privileges"),
    (JOB, "spec submitterPodTemplate", GONE, "not restricted"),
    (JOB, "spec submitterPodTemplate spec automountServiceAccountToken", True, "holds a token"),
    (JOB, "spec runtimeEnvYAML", "env_vars: {TOKEN: a}", "shown by the dashboard"),
    (DEV, f"{SPOT} containers 0 securityContext readOnlyRootFilesystem", GONE, "write its root"),
    (DEV, f"{SPOT} containers 0 securityContext capabilities drop", [], "keeps capabilities"),
    (DEV, f"{SPOT} containers 0 resources limits memory", GONE, "no limits"),
    (DEV, "spec workerGroupSpecs 1 template metadata labels", {}, "do not share a label"),
    (DEV, "spec authOptions mode", "disabled", "no token authentication"),
    (DEV, "spec authOptions", GONE, "no token authentication"),
    (DEV, "spec autoscalerOptions securityContext", GONE, "autoscaler: may gain privileges"),
    (DEV, "spec headGroupSpec serviceType", "LoadBalancer", "service type LoadBalancer"),
    (DEV, "spec headGroupSpec serviceType", "NodePort", "service type NodePort"),
    (DEV, "spec headGroupSpec enableIngress", True, "ingress"),
    (DEV, "spec headGroupSpec rayStartParams", {}, "work is put on the head"),
    (SERVICE, f"{WORKER} containers 0 securityContext privileged", True, "gain privileges"),
    (
        SERVICE,
        f"{WORKER} containers 0 env",
        [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
        "secret in the environment: TOKEN",
    ),
    ("Namespace/mindeye", "metadata labels", {}, "no namespace enforces"),
    ("NetworkPolicy/deny-all", "spec ingress", [{}], "no policy denies all"),
    ("NetworkPolicy/deny-all", "spec policyTypes", ["Ingress"], "no policy denies all"),
    (ACCESS, "spec ingress 0 from", GONE, "lets anybody in"),
    (ACCESS, "spec ingress 0 from 0", {"ipBlock": {"cidr": "0.0.0.0/0"}}, "lets anybody in"),
    (ACCESS, "spec ingress 0 ports 0 port", 8265, "opens a control port"),
    (ACCESS, "spec ingress 0 ports", GONE, "opens all ports"),
    ("NetworkPolicy/https", "spec egress 0 to", GONE, "lets out to anywhere"),
]


def plant(name, path, value):
    """Return all objects, one of them changed at a path."""
    found = documents()
    place = next(document for document in found if name_of(document) == name)
    *way, last = [int(word) if word.isdigit() else word for word in path.split()]
    for step in way:
        place = place[step]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return found


def test_nothing_is_open():
    """Oracle: the policy."""
    assert violations(documents()) == []


@pytest.mark.parametrize(("name", "path", "value", "message"), PLANTED)
def test_planted_violations_are_found(name, path, value, message):
    """Oracle: a planted violation."""
    assert any(message in each for each in violations(plant(name, path, value)))


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        ({"kind": "Ingress", "metadata": {"name": "a"}, "spec": {}}, "opens the cluster"),
        (
            {"kind": "Service", "metadata": {"name": "a"}, "spec": {"type": "LoadBalancer"}},
            "service type LoadBalancer",
        ),
    ],
)
def test_planted_objects_are_found(planted, message):
    """Oracle: a planted object."""
    (found,) = violations([*documents(), planted])
    assert message in found


def test_every_pod_is_checked():
    """Oracle: the number of `containers` in the objects."""
    count = sum(str(document).count("'containers':") for document in documents())
    assert sum(len(pod_templates(document)) for document in documents()) == count > 0
