"""Take the protection from each fault away and see its test fail: `make fault-proof`, `make fault-proof FAULT=f07`.

Each row of `protections` is tried in a copy of the tree, against the real API server. Red is a failed assertion of the
test; an error of its fixtures, an import that fails, or a test that passes is none.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree as ET

from proof.protections import PROTECTIONS, Row

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "fault-proof.json"
_COPIED = ("crds", "operator", "trainer-image", "tests", "charts", "examples", "pyproject.toml")
_TIMEOUT_S = 600
_AT_ONCE = 2


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
        compile(mutated, edit.file, "exec")
        path.write_text(mutated)


def verdict(report: Path) -> str:
    """Return `red` when a test failed by an assertion and nothing broke, else what happened instead."""
    if not report.exists():
        return "HARNESS BROKE: no report in time"
    cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 - pytest's own
    errors = [each.get("message", "") for case in cases for each in case.findall("error")]
    failures = [each.get("message", "") for case in cases for each in case.findall("failure")]
    if errors:
        return f"HARNESS BROKE: {errors[0][:200]}"
    if not cases or all(case.find("skipped") is not None for case in cases):
        return "HARNESS BROKE: no test ran"
    if not failures:
        return "STILL GREEN"
    told = [each for each in failures if each.startswith(("assert", "AssertionError", "Failed: "))]
    return "red" if told else f"NO ASSERTION: {failures[0][:200]}"


def prove(row: Row) -> dict[str, str | float]:
    """Run a row's tests without its protection; return the row's result."""
    with tempfile.TemporaryDirectory(prefix=f"proof-{row.fault}-") as folder:
        tree = Path(folder, "tree")
        for name in _COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            tree.mkdir(exist_ok=True)
            copy(source, tree / name)
        mutate(row, tree)
        report = Path(folder, "report.xml")
        # In front of an editable install of this tree.
        path = os.pathsep.join(str(tree / name) for name in ("crds", "operator", "trainer-image", "tests"))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *row.tests]
        command.append(f"--basetemp={folder}/pytest")
        started = time.monotonic()
        environment = os.environ | {"PYTHONPATH": path}  # noqa: TID251 - the rim
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL)
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # pytest then ends the servers that it started.
            process.send_signal(signal.SIGINT)
            process.wait(_TIMEOUT_S)
            report.unlink(missing_ok=True)
        seconds = round(time.monotonic() - started, 1)
        return {"fault": row.fault, "verdict": verdict(report), "seconds": seconds}


def main() -> int:
    """Print one line per row; return 0 only if all are red."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", default="", help="only this one, such as f07")
    chosen = parser.parse_args().fault
    rows = [each for each in PROTECTIONS if chosen in {"", each.fault}]
    if not rows:
        parser.error(f"no row for {chosen}; there are {', '.join(each.fault for each in PROTECTIONS)}")
    results: dict[str, dict[str, str | float]] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for result in pool.map(prove, rows):
            results[str(result["fault"])] = result
            print(f"{result['fault']}  {result['verdict']:<12} {result['seconds']:7.1f} s", flush=True)  # noqa: T201
    kept = {each["fault"]: each for each in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    merged = kept | results
    RESULTS.write_text(json.dumps([merged[name] for name in sorted(merged)], indent=2) + "\n")
    return 0 if all(each["verdict"] == "red" for each in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
