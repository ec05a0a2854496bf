"""Secure by default: what every manifest must say. Oracle: tables of values, by hand."""

import pytest

from tests.cluster.manifests import cluster_spec, documents, name_of, pod_templates

CONTAINER = {
    "securityContext allowPrivilegeEscalation": False,
    "securityContext readOnlyRootFilesystem": True,
    "securityContext capabilities": {"drop": ["ALL"]},
    "securityContext privileged": None,
    "securityContext runAsUser": None,
}
POD = {
    "securityContext runAsNonRoot": True,
    "securityContext seccompProfile type": "RuntimeDefault",
    "hostNetwork": None,
    "hostPID": None,
    "hostIPC": None,
}
CLUSTER = {
    "authOptions mode": "token",
    "enableInTreeAutoscaling": True,
    "headGroupSpec rayStartParams num-cpus": "0",
    "headGroupSpec enableIngress": None,
    "headGroupSpec serviceType": "ClusterIP",
}
VOLUMES = {"name", "emptyDir", "persistentVolumeClaim", "secret", "configMap", "projected"}
KINDS = {
    *("Namespace", "ServiceAccount", "PersistentVolumeClaim", "NetworkPolicy"),
    *("RayCluster", "RayJob", "RayService"),
}
"""None of which is reached from outside, as a LoadBalancer or an Ingress would be."""
FOUND = documents()
CLUSTERS = [document for document in FOUND if cluster_spec(document)]
PODS = [(d, *pod) for d in CLUSTERS for pod in pod_templates(d).items()]
POLICIES = {d["metadata"]["name"]: d["spec"] for d in FOUND if d["kind"] == "NetworkPolicy"}
INGRESS = {"control": 8265, "clients": 8000, "metrics": 8080}
"""The only port that each policy opens to pods of others; `inside-*` open all among their own."""


def at(place, path):
    for key in path.split():
        place = (place or {}).get(key)
    return place


def differing(place, table):
    return {path: at(place, path) for path, value in table.items() if at(place, path) != value}


@pytest.mark.parametrize("document", CLUSTERS, ids=name_of)
def test_clusters_want_a_token_and_stay_inside(document):
    spec = cluster_spec(document)
    assert differing(spec, CLUSTER) == {}
    assert differing(spec["autoscalerOptions"], CONTAINER) == {}
    assert document["kind"] != "RayJob" or document["spec"]["submitterPodTemplate"]
    assert "env_vars" not in document["spec"].get("runtimeEnvYAML", ""), "the dashboard shows them"


@pytest.mark.parametrize(("document", "group", "template"), PODS)
def test_pods_have_no_rights_and_a_limit(document, group, template):
    spec = template["spec"]
    assert differing(spec, POD) == {}
    assert spec["securityContext"]["runAsUser"] > 0
    assert group == "head" or spec["automountServiceAccountToken"] is False
    assert all(set(volume) <= VOLUMES for volume in spec.get("volumes", []))
    own = {f"mindeye-dist/{'submitter' if group == 'submitter' else 'cluster'}"}
    assert own <= template["metadata"]["labels"].keys()
    for container in spec["containers"] + spec.get("initContainers", []):
        assert differing(container, CONTAINER) == {}
        assert all(
            {"cpu", "memory"} <= container["resources"][k].keys() for k in ("requests", "limits")
        )
        assert container["image"].rpartition(":")[2] not in ("", "latest", container["image"])
        assert "secretKeyRef" not in str(container.get("env")), "a secret in the environment"
        assert "hostPort" not in str(container.get("ports"))


def test_only_named_ports_are_open_to_named_pods():
    assert {d["kind"] for d in FOUND} == KINDS
    (namespace,) = (d["metadata"] for d in FOUND if d["kind"] == "Namespace")
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert POLICIES["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in POLICIES.items():
        assert all(rule["to"] for rule in spec.get("egress", []))
        for rule in spec.get("ingress", []):
            if name.startswith("inside-"):
                assert rule == {"from": [{"podSelector": spec["podSelector"]}]}
            else:
                assert [each["port"] for each in rule["ports"]] == [INGRESS[name]]
                assert rule["from"]
                assert all("ipBlock" not in source for source in rule["from"])
