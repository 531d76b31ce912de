"""FINETUNE_TEST_KUBECONFIG: tests use a cluster that is there already."""

import json
from pathlib import Path

import httpx
import pytest

from support.cluster import CRD_URL, EXISTING, open_cluster


def test_the_cluster_of_a_kubeconfig_is_used_and_none_is_started(
    cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(EXISTING, str(cluster.kubeconfig))

    found = open_cluster(tmp_path)

    assert found.url == cluster.url
    assert found.kubectl("get", "ftj") == ""
    with found.client() as api:
        assert api.get(CRD_URL).status_code == httpx.codes.OK
    assert sorted(each.name for each in tmp_path.iterdir()) == ["kubeconfig"]


def test_a_user_without_a_token_is_refused_with_the_remedy(cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    document = json.loads(cluster.kubeconfig.read_text())
    document["users"][0]["user"] = {}
    (tmp_path / "config").write_text(json.dumps(document))
    monkeypatch.setenv(EXISTING, str(tmp_path / "config"))

    with pytest.raises(AssertionError, match="kubectl create token"):
        open_cluster(tmp_path / "cluster")
