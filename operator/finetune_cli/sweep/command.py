"""`finetune sweep`: the parts put together on this machine."""

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from finetune_api.sweep import FineTuneSweepStatus, SweepPhase
from finetune_api.sweep_space import corners, trial_manifest
from finetune_api.validation import validate_manifest
from finetune_cli.claim import claimed
from finetune_cli.display import OutputForm
from finetune_cli.manifest import load_sweep
from finetune_cli.resolve import LOCAL_FOLDER, resolve
from finetune_cli.sweep.engine import End, search
from finetune_cli.sweep.journal import JOURNAL_FILE, Journal
from finetune_cli.sweep.local import LocalRunner
from finetune_cli.sweep.shown import make_display
from finetune_cli.sweep.telling import status_of
from finetune_cli.sweep.warm import WarmTrainer

BEST_FILE = "best.yaml"


def sweep(file: Path, workdir: Path | None, sets: Sequence[str], output: OutputForm) -> SweepPhase:
    """Run a sweep, or go on with it.

    Args:
        file: The manifest.
        workdir: Work folder; `.finetune/NAME` beside the manifest when None.
        sets: `path=value` below spec.
        output: What is printed.

    Returns:
        How it ended.

    Raises:
        InvalidSpec: The manifest breaks the contract, needs a cluster, or is not the one of this work folder.
        WorkFolderBusy: Another command runs in the work folder.
    """  # noqa: DOC502
    wanted = load_sweep(file, sets)
    folder = file.resolve().parent
    work = workdir.resolve() if workdir else folder / LOCAL_FOLDER / wanted.metadata.name
    # What a run on this machine refuses, it refuses for the first trial already.
    resolve(validate_manifest(trial_manifest(wanted, 0, next(corners(wanted.spec)))), file, work)
    work.mkdir(parents=True, exist_ok=True)

    def tell_wait() -> None:
        sys.stderr.write(f"{work}: a trial saves its last step; waiting for it\n")

    with claimed(work, tell_wait) as held:
        journal = Journal.open(work / JOURNAL_FILE, wanted.spec)
        display = make_display(output, wanted)
        try:
            with WarmTrainer(held, work / "warm.log") as warm:
                runner = LocalRunner(wanted.spec.objective.metric, file, work, warm.start)
                end = search(wanted, journal, runner, display.trials)
        except KeyboardInterrupt:
            end = End("Interrupted")
        finally:
            journal.close()
        status = status_of(wanted, journal.trials, end, folder)
        _keep_best(work / BEST_FILE, status)
    display.end(status)
    return status.phase


def _keep_best(path: Path, status: FineTuneSweepStatus) -> None:
    if status.best is not None:
        path.write_text(yaml.safe_dump(status.best.manifest, sort_keys=False), encoding="utf-8")
