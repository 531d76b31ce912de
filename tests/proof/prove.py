"""Take the protection from each fault away and see its tests fail: `make fault-proof`, `make fault-proof ROWS=f07,f20`.

First the tests run with everything in place and must pass. Then each row of `protections` is tried in a copy of the
tree. All runs share one control plane. Red is an assertion of the test itself that fails: an error of its fixtures, an
import that fails or a test that passes is none.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from proof.protections import PROTECTIONS
from proof.row import Row
from support.cluster import EXISTING, load_control_plane

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "fault-proof.json"
_COPIED = ("crds", "operator", "trainer-image", "tests", "charts", "examples", "pyproject.toml")
_TIMEOUT_S = 1200
# They wait more than they work.
_AT_ONCE = 3
_LONGEST_LINE = 200
_BROKEN = ("error", "skipped")
_DID_NOT_RUN = "did not run"

Environment = Mapping[str, str]
Result = dict[str, Any]


def mutate(row: Row, root: Path) -> None:
    """Take the protections of a row away in a tree.

    Raises:
        ValueError: A text does not stand exactly once in its file: the record is out of date.
    """
    for edit in row.edits:
        path = root / edit.file
        source = path.read_text()
        found = source.count(edit.text)
        if found != 1:
            raise ValueError(f"{row.fault}: {edit.file} has this text {found} times, not once: {edit.text!r}")
        mutated = source.replace(edit.text, edit.replacement)
        if path.suffix == ".py":
            compile(mutated, edit.file, "exec")
        path.write_text(mutated)


def run_tests(tree: Path, tests: Sequence[str], folder: Path, environment: Environment, *more: str) -> dict[str, str]:
    """Run tests in a tree.

    Returns:
        What became of each, a test with parameters once for each of them: empty for one that passed, else the first
        line that says why not.
    """
    report = folder / "report.xml"
    path = os.pathsep.join(str(tree / name) for name in ("crds", "operator", "trainer-image", "tests"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *more]
    # Without the fixtures of trainers, whose imports take longer than some of the tests.
    command += [f"--basetemp={folder}/pytest", "--confcutdir=tests/control_plane", *tests]
    # In front of an editable install of this tree.
    environment = {**environment, "PYTHONPATH": path}
    process = subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL)
    try:
        process.wait(_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # pytest then ends the servers that it started.
        process.send_signal(signal.SIGINT)
        process.wait(_TIMEOUT_S)
        report.unlink(missing_ok=True)
    return read_report(report, tests)


def read_report(report: Path, tests: Sequence[str]) -> dict[str, str]:
    """Return what a JUnit report says of tests, as `run_tests` does."""
    cases = list(ET.parse(report).getroot().iter("testcase")) if report.exists() else []  # noqa: S314 - pytest's own
    found: dict[str, str] = {}
    for test in tests:
        file, _, name = test.partition("::")
        module = file.removesuffix(".py").replace("/", ".")
        own = {each.get("name", ""): each for each in cases if each.get("classname") == module}
        chosen = {key: _told(case) for key, case in own.items() if name in {key, key.partition("[")[0]}}
        found |= chosen or {name: _DID_NOT_RUN}
    return found


def _told(case: ET.Element) -> str:
    broken = [f"{kind}: {each.get('message')}" for kind in _BROKEN for each in case.findall(kind)]
    failed = [each.get("message", "") for each in case.findall("failure")]
    return next((each.partition("\n")[0][:_LONGEST_LINE] for each in (*broken, *failed)), "")


def prove(row: Row, environment: Environment) -> Result:
    """Run a row's tests without its protection; return the row's result."""
    with tempfile.TemporaryDirectory(prefix=f"proof-{row.fault}-") as folder:
        tree = Path(folder, "tree")
        tree.mkdir()
        for name in _COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, tree / name)
        mutate(row, tree)
        if row.own_cluster:
            environment = {name: value for name, value in environment.items() if name != EXISTING}
        started = time.monotonic()
        failed = run_tests(tree, row.tests, Path(folder), environment)
        seconds = round(time.monotonic() - started, 1)
    return {"fault": row.fault, "verdict": verdict(failed), "seconds": seconds, "failed": failed}


def verdict(failed: Mapping[str, str]) -> str:
    """Return `red` when an assertion failed in every test, else what happened instead."""
    if any(each.startswith((*_BROKEN, _DID_NOT_RUN)) for each in failed.values()):
        return "HARNESS BROKE"
    if "" in failed.values():
        return "STILL GREEN"
    asserted = all(each.startswith(("assert", "AssertionError")) for each in failed.values())
    return "red" if asserted else "NO ASSERTION"


def main() -> int:
    """Print one line per row; return 0 only if all are red."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="", help="only these, such as f07,f20")
    chosen = tuple(filter(None, parser.parse_args().rows.split(",")))
    rows = [each for each in PROTECTIONS if not chosen or each.fault in chosen]
    if not rows or not {*chosen} <= {each.fault for each in rows}:
        parser.error(f"there are {', '.join(each.fault for each in PROTECTIONS)}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="proof-") as name:
        folder = Path(name)
        plane = load_control_plane(folder / "plane")
        try:
            environment = {**os.environ, EXISTING: str(plane.kubeconfig)}  # noqa: TID251 - the rim
            results = _results(rows, folder, environment)
        finally:
            plane.stop()
    red = sum(each["verdict"] == "red" for each in results)
    print(f"{red} of {len(rows)} rows are red; {time.monotonic() - started:.0f} s")  # noqa: T201
    return 0 if red == len(rows) else 1


def _results(rows: Sequence[Row], folder: Path, environment: Environment) -> list[Result]:
    tests = sorted({test for row in rows for test in row.tests})
    with_it = run_tests(ROOT, tests, folder, environment, "-n", str(_AT_ONCE), "--dist", "loadfile")
    bad = {case for case, why in with_it.items() if why}
    for case in bad:
        print(f"fails with every protection in place: {case}: {with_it[case]}")  # noqa: T201
    results: list[Result] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for result in pool.map(lambda row: prove(row, environment), rows):
            if bad & result["failed"].keys():
                result["verdict"] = "RED WITH IT TOO"
            results.append(result)
            print(f"{result['fault']:<14} {result['verdict']:<15} {result['seconds']:7.1f} s", flush=True)  # noqa: T201
            _keep(result)
    return results


def _keep(result: Result) -> None:
    """Put a row's result into the record, and drop rows that are no more."""
    kept = {each["fault"]: each for each in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    kept[result["fault"]] = result
    names = [each.fault for each in PROTECTIONS if each.fault in kept]
    RESULTS.write_text(json.dumps([kept[name] for name in names], indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
