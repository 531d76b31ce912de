"""From each value set in `values/` to the objects in `golden/`, the same with both Helms.

After a change that is meant, `python tests/chart/test_chart_golden.py` from the project's folder writes them anew; read
the difference before you commit it.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.chart import CASES, comparable, golden_file, of_kind, only, text_of, values_of
from support.cluster import CRD
from support.helm import CHART, NEWEST, Helm, build_helm


@pytest.mark.parametrize("case", CASES)
def test_values_give_the_objects_that_are_written_down(helm: Helm, case: str):
    rendered = text_of(comparable(helm.objects(*values_of(case))))

    assert rendered == golden_file(case).read_text(), "if this is meant: python tests/chart/test_chart_golden.py"


def test_helm_finds_nothing_to_complain_about(helm: Helm):
    for case in CASES:
        helm.run("lint", "--strict", "--kube-version=1.37.0", *values_of(case), str(CHART))


def test_the_crd_is_installed_as_it_was_generated(newest_helm: Helm):
    generated = yaml.safe_load(CRD.read_text())
    kept = only(newest_helm.objects(), "CustomResourceDefinition")
    dropped = only(newest_helm.objects("--set=crd.keep=false"), "CustomResourceDefinition")

    assert kept["spec"] == dropped["spec"] == generated["spec"]
    assert kept["metadata"]["name"] == generated["metadata"]["name"]
    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in dropped["metadata"]


def test_large_numbers_of_the_crd_stay_whole_numbers(newest_helm: Helm):
    assert newest_helm.template("--show-only=templates/crd.yaml").count("e+0") == CRD.read_text().count("e+0")


def test_every_dashboard_is_a_config_map_with_the_files_own_text(newest_helm: Helm):
    maps = of_kind(newest_helm.objects(*values_of("everything")), "ConfigMap")
    files = {path.name: path.read_text() for path in (CHART / "dashboards").glob("*.json")}

    assert {name: json.loads(text) for each in maps for name, text in each["data"].items()} == {
        name: json.loads(text) for name, text in files.items()
    }
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "yes" for each in maps)


def test_the_alerts_reach_the_cluster_as_they_are_written(newest_helm: Helm):
    rules = of_kind(newest_helm.objects(*values_of("everything")), "PrometheusRule")
    file = CHART / "files" / "alerts.yaml"

    assert [each["spec"] for each in rules] == ([yaml.safe_load(file.read_text())] if file.exists() else [])


def test_no_objects_are_written_down_without_their_values():
    assert sorted(path.stem for path in golden_file("any").parent.glob("*.yaml")) == CASES


def regenerate() -> None:
    with tempfile.TemporaryDirectory() as folder:
        helm = Helm(build_helm(NEWEST), Path(folder))
        for case in CASES:
            golden_file(case).write_text(text_of(comparable(helm.objects(*values_of(case)))))


if __name__ == "__main__":
    regenerate()
