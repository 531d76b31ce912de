"""Each alert was seen firing and seen not firing, has a runbook, and can be acted on by whoever it wakes."""

import re
import subprocess
from typing import Any

import pytest
import yaml

from support.cluster import ROOT
from support.prometheus import NoPrometheus, find

RULES = ROOT / "charts" / "finetune-operator" / "files" / "alerts.yaml"
CASES = ROOT / "tests" / "chart" / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
NAMES = [alert["alert"] for alert in ALERTS]
each_alert = pytest.mark.parametrize("alert", ALERTS, ids=NAMES)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        program = find("promtool")
    except NoPrometheus as error:
        pytest.skip(f"tier left out: {error}")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def checks(name: str) -> list[dict[str, Any]]:
    document = yaml.safe_load((CASES / f"{name}.yaml").read_text())
    return [check for case in document["tests"] for check in case["alert_rule_test"]]


def test_the_rules_are_a_rule_file_of_prometheus():
    done = promtool("check", "rules", str(RULES))

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@each_alert
def test_an_alert_fires_and_stays_silent_as_its_cases_say(alert: dict[str, Any]):
    done = promtool("test", "rules", str(CASES / f"{alert['alert']}.yaml"))

    assert done.returncode == 0, done.stdout + done.stderr


@each_alert
def test_the_cases_of_an_alert_see_it_firing_and_see_it_silent(alert: dict[str, Any]):
    seen = {bool(check["exp_alerts"]) for check in checks(alert["alert"])}

    assert {check["alertname"] for check in checks(alert["alert"])} == {alert["alert"]}
    assert seen == {True, False}


@each_alert
def test_an_alert_says_what_happened_and_where_to_read_on(alert: dict[str, Any]):
    annotations = alert["annotations"]

    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"docs/runbooks/{alert['alert']}.md"
    assert annotations["description"].endswith(".")
    assert alert["labels"]["severity"] in {"critical", "warning"}


@pytest.mark.parametrize("alert", [each for each in ALERTS if each["alert"].startswith("FineTuneJob")])
def test_whoever_is_woken_by_a_jobs_alert_sees_which_job_it_is(alert: dict[str, Any]):
    assert "{{ $labels.namespace }}/{{ $labels.name }}" in alert["annotations"]["summary"]
    for check in checks(alert["alert"]):
        assert all({"namespace", "name"} <= set(fired["exp_labels"]) for fired in check["exp_alerts"])


@each_alert
def test_a_runbook_tells_where_to_look_and_what_to_do(alert: dict[str, Any]):
    text = (RUNBOOKS / f"{alert['alert']}.md").read_text()

    assert text.startswith(f"# {alert['alert']}\n")
    assert "## Look\n" in text
    assert re.search(r"^\|.*what to do \|$", text, re.MULTILINE)


def test_no_runbook_and_no_case_is_left_from_an_alert_that_is_gone():
    assert sorted(path.stem for path in RUNBOOKS.glob("FineTune*.md")) == sorted(NAMES)
    assert sorted(path.stem for path in CASES.glob("*.yaml")) == sorted(NAMES)
    assert sorted(re.findall(r"\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text())) == sorted(NAMES)


def test_links_between_runbooks_lead_somewhere():
    for path in RUNBOOKS.glob("*.md"):
        for target in re.findall(r"\]\(([\w.]+)\)", path.read_text()):
            assert (RUNBOOKS / target).exists(), f"{path.name}: {target}"
