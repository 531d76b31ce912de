"""The report of a run, from what it was told and what it found."""

from collections.abc import Mapping
from pathlib import Path

from finetune_api.names import EVALUATION_DIR, REPORT_FILE
from finetune_api.run_config import RunConfig
from finetune_trainer.evaluations import Evaluated
from finetune_trainer.history import read_history
from finetune_trainer.preparation import Prepared
from finetune_trainer.report.page import Subject, write_report


def report_run(config: RunConfig, data: Prepared, newest: Mapping[str, Evaluated], steps: int) -> None:
    """Write the report of a run into its work folder.

    Args:
        config: The run.
        data: Its rows.
        newest: The newest evaluation of each set.
        steps: Optimiser steps done.
    """
    spec, work = config.spec, Path(config.paths.work)
    about = [
        ("task", spec.task),
        ("model", data.files.uri + (f" at {data.files.revision}" if data.files.revision else "")),
        ("method", f"{spec.method.type}, {steps} steps"),
        *((f"{name} rows", f"{len(rows.table)}, sha256 {data.digests[name]}") for name, rows in data.encoded.items()),
    ]
    tables = {name: rows.table for name, rows in data.encoded.items()}
    subject = Subject(
        config.job.name,
        about,
        data.task,
        spec.training.seed,
        dict(sorted(newest.items(), reverse=True)),
        tables,
        read_history(work),
    )
    write_report(subject, work / EVALUATION_DIR / REPORT_FILE)
