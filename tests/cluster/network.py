"""Not a test: a model of Kubernetes' network policies, for pods identified by their labels."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pod:
    """A pod: its labels, its namespace and the namespace's labels."""

    labels: dict
    namespace: str = "mindeye"
    namespace_labels: dict = field(init=False)

    def __post_init__(self):
        by_name = {"kubernetes.io/metadata.name": self.namespace}
        object.__setattr__(self, "namespace_labels", by_name)


def connects(policies, source, target, port):
    """Return whether a pod may open a connection: the source lets it out, the target in."""
    out = allows(policies, source, "Egress", "egress", "to", target, port)
    return out and allows(policies, target, "Ingress", "ingress", "from", source, port)


def allows(policies, pod, kind, rules, peers, other, port):
    binding = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and kind in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], pod.labels)
    ]
    if not binding:
        return True  # a pod that no policy selects is open
    return any(
        fits(rule.get("ports"), port) and any(meets(peer, pod, other) for peer in rule[peers])
        for spec in binding
        for rule in spec.get(rules, [])
    )


def fits(ports, port):
    return ports is None or any(each["port"] == port for each in ports)


def meets(peer, pod, other):
    if "ipBlock" in peer:
        return False  # addresses outside the cluster; pods are not matched by address
    if "namespaceSelector" in peer:
        there = selects(peer["namespaceSelector"], other.namespace_labels)
    else:
        there = other.namespace == pod.namespace
    return there and selects(peer.get("podSelector", {}), other.labels)


def selects(selector, labels):
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()
