"""Every rendered object is what Kubernetes 1.33 to 1.37 takes: by their published schemas, and by a real API server."""

import copy
from typing import Any

import httpx
import kubernetes_validate
import pytest

from support.chart import CASES, Object, make_namespace, only, text_of, values_of
from support.helm import Helm

VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
# Kinds that others define have no published schema; the API server below knows their definitions.
OTHERS = ("monitoring.coreos.com/", "cert-manager.io/")
MAX_RELEASE_NAME = 53


@pytest.fixture(scope="module")
def rendered(newest_helm: Helm) -> list[Object]:
    """The objects of all value sets, each once."""
    found: dict[str, Object] = {}
    for case in CASES:
        found |= {text_of([each]): each for each in newest_helm.objects(*values_of(case))}
    return list(found.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_pass_a_strict_check_of_their_schema(rendered: list[Object], version: str):
    checked = [each for each in rendered if not each["apiVersion"].startswith(OTHERS)]

    assert {kubernetes_validate.validate(each, version, strict=True) for each in checked} == {version}


def test_the_strict_check_finds_a_wrong_key(rendered: list[Object]):
    wrong = copy.deepcopy(only(rendered, "PodDisruptionBudget") | {"spec": {"maxUnavailabel": 1}})

    with pytest.raises(kubernetes_validate.ValidationError, match="maxUnavailabel"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("release", ["finetune-operator", "r" * MAX_RELEASE_NAME])
def test_the_api_server_takes_every_object(newest_helm: Helm, plane: Any, api: httpx.Client, case: str, release: str):
    for name in ("finetune-system", "team-a", "team-b"):
        make_namespace(api, name)
    text = newest_helm.template(*values_of(case), release=release)

    told = plane.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-", stdin=text)

    assert told.count("serverside-applied (server dry run)") == text.count("\nkind: ")


@pytest.mark.parametrize("case", CASES)
def test_the_operators_pod_is_let_into_a_restricted_namespace(newest_helm: Helm, api: httpx.Client, case: str):
    namespace = make_namespace(api, "restricted")
    template = only(newest_helm.objects(*values_of(case)), "Deployment")["spec"]["template"]
    # Neither belongs to the level, and neither is in this namespace.
    spec = {
        key: value for key, value in template["spec"].items() if key not in {"serviceAccountName", "priorityClassName"}
    }

    def post(spec: Object) -> httpx.Response:
        body = {"metadata": {"name": "operator"}, "spec": spec}
        return api.post(f"/api/v1/namespaces/{namespace}/pods", params={"dryRun": "All"}, json=body)

    as_root = spec | {"securityContext": spec["securityContext"] | {"runAsNonRoot": False, "runAsUser": 0}}
    assert post(spec).status_code == httpx.codes.CREATED, post(spec).text
    assert "violates PodSecurity" in post(as_root).text
