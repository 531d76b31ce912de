"""The record of what protects from each fault stays true to the code."""

import re
import shutil
from pathlib import Path

import pytest

from proof.protections import PROTECTIONS, Row
from proof.prove import ROOT, mutate, verdict


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

        assert name.startswith(f"test_{row.fault}_")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_a_protection_that_is_not_found_fails_loudly(tmp_path: Path):
    row = PROTECTIONS[0]
    (tmp_path / row.edits[0].file).parent.mkdir(parents=True)
    (tmp_path / row.edits[0].file).write_text("")

    with pytest.raises(ValueError, match="0 times"):
        mutate(row, tmp_path)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("", "STILL GREEN"),
        ('<failure message="AssertionError: two Jobs"/>', "red"),
        ('<failure message="KeyError: attempt"/>', "NO ASSERTION"),
        ('<error message="ImportError"/>', "HARNESS BROKE"),
        ('<failure message="AssertionError: x"/><error message="at the end"/>', "HARNESS BROKE"),
        ("<skipped/>", "HARNESS BROKE"),
    ],
)
def test_red_is_a_failed_assertion_and_nothing_else(case: str, told: str, tmp_path: Path):
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite><testcase>{case}</testcase></testsuite></testsuites>")

    assert verdict(report).startswith(told)
