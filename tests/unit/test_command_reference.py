"""The page of commands says what `--help` says.

After a change that is meant, `python tests/unit/test_command_reference.py` from the project's folder writes it anew.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from finetune_cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
HEAD = """\
# Commands

Generated from the commands' own help by `python tests/unit/test_command_reference.py`; do not edit.

`kubectl finetune ...` is the same as `finetune ...`: kubectl finds `kubectl-finetune` on the PATH. `validate`,
`plan`, `data`, `run`, `predict` and `eval` work on this machine; the others talk to the cluster of the kubeconfig.

| exit code | means |
|---|---|
| 0 | done; for `run` and `submit --wait`: Complete |
| 1 | Failed, refused by the cluster, or given up after `--timeout` |
| 2 | the manifest or the command line is wrong; nothing was made |
| 130 | interrupted; `run` saved a checkpoint, a job on a cluster goes on |
"""


def page() -> str:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return HEAD + "".join("\n".join(section(name, command)) + "\n" for name, command in commands.items())


def section(name: str, command: Any) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    line = " ".join(["finetune", name, *(each.metavar for each in arguments), *(["[OPTIONS]"] if options else [])])
    yield from ("", f"## {name}", f"`{line}`", "", " ".join(command.help.split()))
    if options:
        yield from ("", "| option | default | meaning |", "|---|---|---|")
    for each in options:
        names = ", ".join(f"`{opt}`" for opt in each.opts) + (f" {each.metavar}" if each.metavar else "")
        default = "" if each.default is None or each.default is False else f"`{each.default}`"
        default = default or (f"`${each.envvar}`" if each.envvar else "")
        yield f"| {names} | {default} | {each.help} |"


def test_the_page_of_commands_is_what_help_says():
    assert PAGE.read_text() == page(), "if this is meant: python tests/unit/test_command_reference.py"


def test_every_option_and_command_is_explained():
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

    assert [name for name, command in commands.items() if not command.help] == []
    assert [(name, each.name) for name, command in commands.items() for each in command.params if not each.help] == []


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE}\n")
