"""checkov over everything that the chart renders; each exception says why. It has an environment of its own."""

import json
import subprocess
import sys
from pathlib import Path

from support.chart import CASES, values_of
from support.helm import Helm

CHECKOV = "checkov==3.3.30"
EXCEPTIONS = {
    "CKV_K8S_11": "a CPU limit would throttle the burst after an outage, where the operator has most to do",
    "CKV_K8S_15": "a version is pulled once; Always would make a restart depend on the registry",
    "CKV_K8S_38": "the operator's work is to talk to the API server; its account's own token is not mounted elsewhere",
    "CKV_K8S_43": "image.digest is there for it; a chart cannot know the digest of what is built beside it",
}


def test_checkov_finds_nothing_but_the_explained_exceptions(newest_helm: Helm, tmp_path: Path):
    for case in CASES:
        (tmp_path / f"{case}.yaml").write_text(newest_helm.template(*values_of(case)))
    # uv keeps the environment in its cache; checkov's dependencies contradict ours.
    run = [sys.executable, "-m", "uv", "tool", "run", "--python", sys.executable, "--from", CHECKOV, "checkov"]
    flags = ["--directory", str(tmp_path), "--framework", "kubernetes", "--skip-download", "--output", "json"]
    done = subprocess.run([*run, *flags], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(("{", "[")), done.stderr
    results = json.loads(done.stdout)["results"]
    failed = {
        (each["check_id"], each["check_name"], each["resource"].split(".")[0]) for each in results["failed_checks"]
    }

    assert len(results["passed_checks"]) > 100
    assert not [each for each in failed if each[0] not in EXCEPTIONS]
    assert {(identity, "Deployment") for identity in EXCEPTIONS} == {(identity, kind) for identity, _, kind in failed}
