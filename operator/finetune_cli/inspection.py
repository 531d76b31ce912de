"""Show what `plan` and `data` found out."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_cli.resolve import Run

_MIB = 1 << 20
_BAR = 40


def inspect(run: Run, verb: str) -> Mapping[str, Any]:
    """Ask the trainer for a plan or for the data, as JSON.

    Args:
        run: The run.
        verb: plan or data.

    Returns:
        The document; with the key `failure` when it cannot be made.
    """
    sha256 = run.write()
    command = [sys.executable, "-m", "finetune_trainer", verb, "--config", str(run.config_file), "--sha256", sha256]
    found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    try:
        return json.loads(found.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"failure": {"reason": "Unknown", "message": found.stderr[-2000:], "remedy": "", "exitCode": 1}}


def show_plan(plan: Mapping[str, Any]) -> None:
    """Print decisions with reasons, parameters, memory and steps."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    table = Table("setting", "value", "reason")
    for each in plan["decisions"]:
        table.add_row(each["name"], each["value"], each["reason"])
    console.print(table)
    counts, memory, steps = plan["parameters"], plan["memoryBytes"], plan["steps"]
    share = 100 * counts["trainable"] / counts["total"]
    console.print(
        f"parameters: {counts['trainable']:,} trained of {counts['total']:,} ({share:.2f} %)", highlight=False
    )
    parts = ", ".join(f"{name} {value / _MIB:.0f}" for name, value in memory.items() if name != "total")
    console.print(f"memory: about {memory['total'] / _MIB:.0f} MiB ({parts})", highlight=False)
    console.print(f"steps: {steps['total']} ({steps['perEpoch']} in an epoch)", highlight=False)


def show_data(data: Mapping[str, Any]) -> None:
    """Print samples with learned tokens coloured, a histogram of lengths, and refused rows."""
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    for sample in data["samples"]:
        text = Text(f"{sample['place']}: ", style="bold")
        for piece in sample["pieces"]:
            text.append(piece["text"], style="green" if piece["supervised"] else "not bold dim")
        if sample["label"]:
            text.append(f"  -> {sample['label']}", style="green")
        console.print(text)
    pool = {"train": f" of {data['pool']}"} if data["pool"] is not None else {}
    sets = ", ".join(f"{name} {count}{pool.get(name, '')}" for name, count in data["splits"].items())
    console.print(f"rows: {sets}; {data['cut']} cut at maxLength", highlight=False)
    _show_lengths(data["lengths"], console.print)
    for row in data["refused"]:
        console.print(f"refused: {row['file']}, row {row['row']}: {row['reason']}", highlight=False, markup=False)
    if data["refusedCount"] > len(data["refused"]):
        console.print(f"and {data['refusedCount'] - len(data['refused'])} more")


def _show_lengths(lengths: Sequence[Mapping[str, int]], emit: Any) -> None:
    most = max((each["rows"] for each in lengths), default=0) or 1
    for each in lengths:
        bar = "#" * round(_BAR * each["rows"] / most)
        emit(f"{each['upto']:>7} tokens or less {each['rows']:>8} {bar}", highlight=False)


def scratch(work: Path) -> Path:
    """Return the folder in which a plan or a look at the data leaves its configuration, apart from a run's."""
    return work / "inspect"
