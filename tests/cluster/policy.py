"""Not a test: the security policy of the manifests, as functions that list its violations."""

from tests.cluster.manifests import cluster_spec, name_of, pod_templates

VOLUMES = {"name", "emptyDir", "persistentVolumeClaim", "secret", "configMap", "projected"}
CONTROL_PORTS = (6379, 8265, 10001, 44217, 52365)
"""Ports that let a client run code or inspect what runs."""
ALLOWED_SOURCES = ("kuberay-operator", "mindeye-dist/submitter")
PUBLIC_KINDS = ("Ingress", "Gateway", "HTTPRoute", "Route")
CLUSTER_LABEL = "mindeye-dist/cluster"


def violations(documents):
    """Return the violations in objects, each with the object's name."""
    found = namespace_violations(documents) + network_violations(documents)
    for document in documents:
        name = name_of(document)
        if document["kind"] in PUBLIC_KINDS:
            found.append(f"{name}: opens the cluster to the world")
        if document["kind"] == "Service":
            found += service_type_violations(name, document["spec"].get("type"))
        if cluster_spec(document):
            found += [f"{name}: {what}" for what in cluster_violations(document)]
        for role, template in pod_templates(document).items():
            found += [f"{name} {role}: {what}" for what in pod_violations(template, role)]
    return found


def namespace_violations(documents):
    labels = [d["metadata"].get("labels", {}) for d in documents if d["kind"] == "Namespace"]
    strict = any(each.get("pod-security.kubernetes.io/enforce") == "restricted" for each in labels)
    return [] if strict else ["no namespace enforces restricted pods"]


def service_type_violations(name, kind):
    return [] if kind in (None, "ClusterIP") else [f"{name}: service type {kind}"]


def cluster_violations(document):
    spec, found = cluster_spec(document), []
    if spec.get("authOptions", {}).get("mode") != "token":
        found.append("no token authentication")
    head = spec["headGroupSpec"]
    found += service_type_violations("head", head.get("serviceType"))
    if head.get("enableIngress"):
        found.append("the dashboard has an ingress")
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        found.append("work is put on the head")
    if not spec.get("enableInTreeAutoscaling"):
        found.append("does not scale")
    scaler = spec.get("autoscalerOptions", {})
    found += [f"autoscaler: {what}" for what in container_violations(scaler)]
    if document["kind"] == "RayJob" and "submitterPodTemplate" not in document["spec"]:
        found.append("the submitter's pod is KubeRay's own, which is not restricted")
    if "env_vars" in document["spec"].get("runtimeEnvYAML", ""):
        found.append("the runtime environment's variables are shown by the dashboard")
    groups = {t["metadata"]["labels"].get(CLUSTER_LABEL) for t in ray_pods(document)}
    if len(groups) != 1 or None in groups:
        found.append(f"its pods do not share a label {CLUSTER_LABEL}")
    return found


def ray_pods(document):
    return [t for role, t in pod_templates(document).items() if role != "submitter"]


def pod_violations(template, role):
    spec, found = template["spec"], []
    found += [what for what in ("hostNetwork", "hostPID", "hostIPC") if spec.get(what)]
    context = spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or not context.get("runAsUser"):
        found.append("may run as root")
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("no seccomp profile")
    if role != "head" and spec.get("automountServiceAccountToken") is not False:
        found.append("holds a token for Kubernetes")
    for volume in spec.get("volumes", []):
        found += [f"volume of kind {kind}" for kind in set(volume) - VOLUMES]
    for container in spec["containers"] + spec.get("initContainers", []):
        found += [f"{container['name']}: {what}" for what in container_violations(container)]
        found += [f"{container['name']}: {what}" for what in image_violations(container)]
    return found


def container_violations(container):
    context, found = container.get("securityContext", {}), []
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        found.append("may gain privileges")
    if context.get("readOnlyRootFilesystem") is not True:
        found.append("may write its root")
    if context.get("runAsNonRoot") is False or context.get("runAsUser") == 0:
        found.append("may run as root")
    capabilities = context.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        found.append("keeps capabilities")
    for kind in ("requests", "limits"):
        if not {"cpu", "memory"} <= set(container.get("resources", {}).get(kind, {})):
            found.append(f"no {kind}")
    return found


def image_violations(container):
    _, _, tag = container["image"].rpartition(":")
    found = [] if tag not in ("", "latest", container["image"]) else ["image is not pinned"]
    for variable in container.get("env", []):
        if "secretKeyRef" in variable.get("valueFrom", {}):
            found.append(f"secret in the environment: {variable['name']}")
    found += ["port of its machine" for port in container.get("ports", []) if "hostPort" in port]
    return found


def network_violations(documents):
    policies = [d for d in documents if d["kind"] == "NetworkPolicy"]
    found = [] if any(map(denies_all, policies)) else ["no policy denies all"]
    for policy in policies:
        name, spec = name_of(policy), policy["spec"]
        for rule in spec.get("ingress", []):
            sources = rule.get("from", [])
            if not sources or any(not source or "ipBlock" in source for source in sources):
                found.append(f"{name}: lets anybody in")
            ports = [port["port"] for port in rule.get("ports", [])]
            if set(ports) & set(CONTROL_PORTS) and not all(map(may_control, sources)):
                found.append(f"{name}: opens a control port")
            if not ports and not all(same_pods(spec, source) for source in sources):
                found.append(f"{name}: opens all ports to others")
        if any(not rule.get("to") for rule in spec.get("egress", [])):
            found.append(f"{name}: lets out to anywhere")
    return found


def denies_all(policy):
    spec = policy["spec"]
    both = set(spec.get("policyTypes", [])) == {"Ingress", "Egress"}
    return spec["podSelector"] == {} and both and not spec.get("ingress") and not spec.get("egress")


def may_control(source):
    return any(allowed in str(source) for allowed in ALLOWED_SOURCES)


def same_pods(spec, source):
    return source == {"podSelector": spec["podSelector"]} and spec["podSelector"] != {}
