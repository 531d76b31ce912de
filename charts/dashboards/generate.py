"""Write the dashboards that the chart installs, and the reference page of the metrics."""

from pathlib import Path
from typing import Final

from fleet_board import FLEET
from job_board import JOB
from operator_board import OPERATOR
from panels import render
from reference import page

_ROOT: Final = Path(__file__).parents[2]
_CHART: Final = _ROOT / "charts" / "finetune-operator"
_BOARDS: Final = {"job": JOB, "fleet": FLEET, "operator": OPERATOR}


def main() -> None:
    """Write every file."""
    for name, board in _BOARDS.items():
        place = _CHART / "dashboards" / f"{name}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(render(board), encoding="utf-8")
    text = page(tuple(_BOARDS.values()), _CHART / "files" / "alerts.yaml")
    (_ROOT / "docs" / "reference" / "metrics.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
