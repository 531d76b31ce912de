"""From each manifest in `manifests/` to the children in `children/`, byte for byte.

After a change that is meant, `python tests/golden/test_golden.py` from the project's folder writes the children anew;
read the difference before you commit it.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from finetune_operator.plan import unsupported
from golden.cases import CASES, HERE, children, job_of, plan_of


class Dumper(yaml.SafeDumper):
    """Writes parts that plans share in full."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def text_of(case: str) -> str:
    return yaml.dump_all(children(plan_of(case)), Dumper=Dumper, sort_keys=False, width=120, explicit_start=True)


def regenerate() -> None:
    for case in CASES:
        (HERE / "children" / f"{case}.yaml").write_text(text_of(case))


@pytest.mark.parametrize("case", CASES)
def test_a_manifest_gives_the_children_that_are_written_down(case: str):
    written = (HERE / "children" / f"{case}.yaml").read_text()

    assert text_of(case) == written, "if this is meant: python tests/golden/test_golden.py"


@pytest.mark.parametrize("case", CASES)
def test_a_golden_manifest_asks_for_nothing_that_a_cluster_cannot_do(case: str):
    assert unsupported(job_of(case)) == ()


def test_no_children_are_written_down_without_their_manifest():
    assert sorted(path.stem for path in (HERE / "children").glob("*.yaml")) == CASES


if __name__ == "__main__":
    regenerate()
