"""Who may do and reach what: the roles are the operator's own list, the network policies let nothing else through."""

import ipaddress
from collections.abc import Iterable, Iterator

import pytest

from finetune_api import names
from finetune_operator.permissions import PERMISSIONS
from golden.cases import CASES as MANIFESTS
from golden.cases import children, plan_of
from support.chart import Object, container_of, of_kind, only, values_of
from support.helm import Helm

# Where clouds answer with the credentials of the machine.
METADATA = ("169.254.169.254", "fd00:ec2::254")


def granted(objects: Iterable[Object], kind: str, name: str) -> list[Object]:
    return [rule for each in of_kind(objects, kind) if each["metadata"]["name"] == name for rule in each["rules"]]


def as_set(rules: Iterable[Object]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_cluster_role_and_the_lease_role_are_the_operators_permissions(newest_helm: Helm):
    objects = newest_helm.objects("--set=replicas=2")
    jobs = granted(objects, "ClusterRole", "finetune-operator")
    lease = granted(objects, "Role", "finetune-operator-lease")

    assert [*jobs, *lease] == sorted(PERMISSIONS, key=lambda rule: rule["apiGroups"] == ["coordination.k8s.io"])


def test_one_operator_may_not_write_leases(newest_helm: Helm):
    assert of_kind(newest_helm.objects(), "Role") == []


def test_with_named_namespaces_nothing_is_granted_in_the_cluster(newest_helm: Helm):
    objects = newest_helm.objects(*values_of("namespaces"))
    roles = {each["metadata"]["namespace"]: as_set(each["rules"]) for each in of_kind(objects, "Role")}
    lease = roles.pop("finetune-system")

    assert not of_kind(objects, "ClusterRole")
    assert not of_kind(objects, "ClusterRoleBinding")
    assert sorted(roles) == ["team-a", "team-b"]
    assert all(rules | lease == as_set(PERMISSIONS) for rules in roles.values())


def test_who_may_view_may_not_edit_and_nobody_may_write_a_status(newest_helm: Helm):
    objects = newest_helm.objects()
    view = as_set(granted(objects, "ClusterRole", "finetune-operator-view"))
    edit = as_set(granted(objects, "ClusterRole", "finetune-operator-edit"))
    labels = {each["metadata"]["name"]: each["metadata"]["labels"] for each in of_kind(objects, "ClusterRole")}
    to_view = "rbac.authorization.k8s.io/aggregate-to-view"

    assert {verb for *_, verb in view} == {"get", "list", "watch"}
    assert {(group, resource) for group, resource, _ in edit} == {(names.GROUP, names.PLURAL)}
    assert to_view in labels["finetune-operator-view"]
    assert to_view not in labels["finetune-operator-edit"]


def blocks(peers: Iterable[Object]) -> Iterator[Object]:
    return (peer["ipBlock"] for peer in peers if "ipBlock" in peer)


def reaches(block: Object, address: str) -> bool:
    inside = ipaddress.ip_address(address)
    ranges = [ipaddress.ip_network(each) for each in (block["cidr"], *block.get("except", ()))]
    return inside in ranges[0] and not any(inside in each for each in ranges[1:])


@pytest.mark.parametrize("case", ["default", "namespaces", "everything"])
def test_no_policy_lets_the_metadata_address_through(newest_helm: Helm, case: str):
    policies = of_kind(newest_helm.objects(*values_of(case)), "NetworkPolicy")
    rules = [rule for each in policies for rule in each["spec"]["egress"]]

    assert policies
    # A rule without `to` is open to every address.
    assert all(rule["to"] for rule in rules)
    assert not [block for rule in rules for block in blocks(rule["to"]) for each in METADATA if reaches(block, each)]


def matches(selector: Object, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    (exists,) = selector["matchExpressions"]
    assert exists["operator"] == "Exists"
    return all(labels.get(key) == value for key, value in wanted) and exists["key"] in labels


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_the_policies_mean_the_pods_that_the_operator_makes(newest_helm: Helm, manifest: str):
    objects = newest_helm.objects(*values_of("everything"))
    of_trainers = next(each for each in of_kind(objects, "NetworkPolicy") if each["metadata"]["namespace"] == "team-a")
    of_operator = next(each for each in of_kind(objects, "NetworkPolicy") if each is not of_trainers)
    (job,) = of_kind(children(plan_of(manifest)), "Job")
    labels = job["spec"]["template"]["metadata"]["labels"]
    may_post = of_operator["spec"]["ingress"][0]["from"][0]["podSelector"]

    assert matches(of_trainers["spec"]["podSelector"], labels)
    assert matches(may_post, labels)
    assert not matches(may_post, only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"])


def test_prometheus_scrapes_the_pods_that_the_operator_makes(newest_helm: Helm):
    monitor = only(newest_helm.objects(*values_of("everything")), "PodMonitor")["spec"]
    plan = plan_of(MANIFESTS[0])
    (job,) = of_kind(children(plan), "Job")
    (trainer,) = job["spec"]["template"]["spec"]["containers"]
    (source,) = monitor["podMetricsEndpoints"][0]["relabelings"][0]["sourceLabels"]

    assert monitor["podMetricsEndpoints"][0]["port"] in {each["name"] for each in trainer["ports"]}
    assert monitor["selector"]["matchLabels"].pop(names.JOB_INDEX_ANNOTATION) == "0"
    assert monitor["selector"]["matchLabels"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert source == "__meta_kubernetes_pod_label_" + names.LABEL_JOB.replace(".", "_").replace("/", "_")


def test_the_certificates_name_is_the_one_in_the_address_that_trainers_get(newest_helm: Helm):
    objects = newest_helm.objects("--set=tls.source=certManager")
    certificates = of_kind(objects, "Certificate")
    (address,) = (each for each in container_of(objects)["args"] if each.startswith("--progress-url="))
    service = only(objects, "Service")["metadata"]

    assert [f"{service['name']}.{service['namespace']}.svc"] in [each["spec"].get("dnsNames") for each in certificates]
    assert address == f"--progress-url=https://{service['name']}.{service['namespace']}.svc:8443"
