"""The record of what protects from each fault stays true to the code."""

import json
import re
import shutil
from pathlib import Path

import pytest

from proof.protections import PROTECTIONS
from proof.prove import RESULTS, ROOT, mutate, read_report, verdict
from proof.row import Row


@pytest.mark.parametrize("row", PROTECTIONS, ids=lambda row: row.fault)
def test_every_protection_stands_in_the_code_once_and_can_be_taken_away(row: Row, tmp_path: Path):
    for edit in row.edits:
        (tmp_path / edit.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / edit.file, tmp_path / edit.file)

    mutate(row, tmp_path)

    assert all((tmp_path / each.file).read_text() != (ROOT / each.file).read_text() for each in row.edits)


@pytest.mark.parametrize("row", PROTECTIONS, ids=lambda row: row.fault)
def test_every_test_of_the_record_exists_and_is_named_after_its_fault(row: Row):
    for test in row.tests:
        file, name = test.split("[")[0].split("::")

        assert name.startswith(f"test_{row.fault.split('-')[0]}_")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_a_protection_that_is_not_found_fails_loudly(tmp_path: Path):
    row = PROTECTIONS[0]
    (tmp_path / row.edits[0].file).parent.mkdir(parents=True)
    (tmp_path / row.edits[0].file).write_text("")

    with pytest.raises(ValueError, match="0 times"):
        mutate(row, tmp_path)


def test_every_fault_of_the_operator_has_a_row_that_was_seen_red():
    seen = {each["fault"]: each["verdict"] for each in json.loads(RESULTS.read_text())}
    faults = {f"f{number:02}" for number in range(1, 40)}
    # A rank that dies alone is the launcher's to see.
    faults -= {"f25"}

    assert faults <= {each.fault for each in PROTECTIONS}
    assert seen == dict.fromkeys((each.fault for each in PROTECTIONS), "red")


RED = '<failure message="AssertionError: two Jobs&#10;assert 2 == 1"/>'


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        ([RED], "red"),
        ([RED, RED], "red"),
        ([""], "STILL GREEN"),
        # Each of a test's parameters must fail.
        ([RED, ""], "STILL GREEN"),
        (['<failure message="KeyError: attempt"/>'], "NO ASSERTION"),
        (['<error message="ImportError"/>'], "HARNESS BROKE"),
        ([RED + '<error message="at the end"/>'], "HARNESS BROKE"),
        (["<skipped/>"], "HARNESS BROKE"),
        ([], "HARNESS BROKE"),
    ],
)
def test_red_is_a_failed_assertion_and_nothing_else(cases: list[str], told: str, tmp_path: Path):
    report = tmp_path / "report.xml"
    written = [f'<testcase classname="tests.test_x" name="y[{at}]">{each}</testcase>' for at, each in enumerate(cases)]
    report.write_text(f"<testsuites><testsuite>{''.join(written)}</testsuite></testsuites>")
    found = read_report(report, ["tests/test_x.py::y"])

    assert verdict(found) == told
    assert told != "red" or set(found.values()) == {"AssertionError: two Jobs"}


def test_the_parameter_that_a_row_names_is_enough(tmp_path: Path):
    report = tmp_path / "report.xml"
    cases = [
        f'<testcase classname="tests.test_x" name="y[{at}]">{each}</testcase>' for at, each in enumerate([RED, ""])
    ]
    report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")

    assert verdict(read_report(report, ["tests/test_x.py::y[0]"])) == "red"
