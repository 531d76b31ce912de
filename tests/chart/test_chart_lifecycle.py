"""Install, upgrade, roll back, uninstall with both Helms against a real API server: jobs and certificates survive."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from finetune_api import names
from support.chart import make_namespace
from support.cluster import CRD_URL
from support.helm import CHART, Helm
from support.release import Release
from support.waiting import await_that

FINETUNEJOB = f"/apis/{names.API_VERSION}/namespaces/ml/{names.PLURAL}/survivor"
DEPLOYMENT = "/apis/apps/v1/namespaces/{}/deployments/"


@pytest.fixture
def release(cluster_helm: Helm, each_helm: Path, plane: Any, api: httpx.Client) -> Iterator[Release]:
    make_namespace(api, "ml")
    with Release(cluster_helm, plane, f"r{each_helm.parent.name.replace('.', '-')}") as release:
        yield release


def test_a_release_lives_its_whole_life_without_touching_a_job(release: Release, tmp_path: Path):
    deployment = DEPLOYMENT + release.full_name
    uid = release.apply("survivor", "ml")
    child = f"/apis/batch/v1/namespaces/ml/jobs/{names.job_name('survivor', uid, 1)}"
    certificate = release.certificate()
    checksum = checksum_of(release.get(deployment))

    # The operator as the chart runs it: its arguments, its account, its certificate.
    with release.operator(tmp_path / "operator") as operator:
        await_that(lambda: release.exists(child), "the job's Job")
        assert release.post_progress(operator.progress_url) == httpx.codes.UNAUTHORIZED
    child_uid = release.get(child)["metadata"]["uid"]

    release.upgrade("--set=replicas=2", "--set=logLevel=DEBUG")
    assert release.get(deployment)["spec"]["replicas"] == 2
    assert release.certificate() == certificate
    assert checksum_of(release.get(deployment)) == checksum
    assert f"--lease-namespace={release.namespace}" in release.arguments()

    release.helm("rollback", "1")
    assert release.get(deployment)["spec"]["replicas"] == 1
    assert release.certificate() == certificate
    assert "--log-level=INFO" in release.arguments()

    release.uninstall()
    assert not release.exists(deployment)
    assert not release.exists(f"/api/v1/namespaces/{{}}/secrets/{release.full_name}-tls")
    assert release.get(FINETUNEJOB)["metadata"]["uid"] == uid
    assert release.get(child)["metadata"]["uid"] == child_uid

    # The same name finds the CRD that it left.
    release.notes = release.helm("install", str(CHART))
    assert release.get(FINETUNEJOB)["metadata"]["uid"] == uid

    release.upgrade("--set=crd.keep=false")
    release.uninstall()
    await_that(lambda: not release.exists(CRD_URL), "the CRD to go with its release")


def test_a_deleted_certificate_is_made_anew_and_the_pods_are_told(release: Release):
    deployment = DEPLOYMENT + release.full_name
    before, checksum = release.certificate(), checksum_of(release.get(deployment))
    release.api.delete(f"/api/v1/namespaces/{release.namespace}/secrets/{release.full_name}-tls").raise_for_status()

    release.upgrade()

    assert release.certificate()["ca.crt"] != before["ca.crt"]
    assert checksum_of(release.get(deployment)) != checksum


def test_the_notes_give_the_first_three_commands(release: Release):
    commands = [line.strip() for line in release.notes.splitlines() if line.strip().startswith("kubectl ")]

    assert [each.split()[1] for each in commands[:1]] == ["-n"]
    assert commands[0].endswith(f"rollout status deployment/{release.full_name}")
    assert commands[1:] == [
        "kubectl apply -f job.yaml",
        "kubectl wait --for=condition=Finished --timeout=24h -f job.yaml",
    ]
    assert "Uninstalling keeps the CRD" in release.notes


def checksum_of(deployment: dict[str, Any]) -> str:
    return deployment["spec"]["template"]["metadata"]["annotations"]["checksum/ca"]
