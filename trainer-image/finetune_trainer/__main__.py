"""`python -m finetune_trainer VERB --config FILE --sha256 HEX`: launch, run, fetch, plan or data; `predict`, `warm`.

`launch` starts the processes, `run` is one of them; `fetch` brings what they read from the hub before they start;
`plan` and `data` print one JSON document. `warm` launches runs that it reads from standard input. Exit codes are those
of `finetune_api.exit_codes`.
"""

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.exit_codes import COMPLETE, Reason, exit_code
from finetune_api.names import RENDEZVOUS_PORT
from finetune_api.result import Failure, Result
from finetune_api.run_config import DigestMismatch, RunConfig
from finetune_trainer.errors import Preempted, TrainerError
from finetune_trainer.fence import Writer
from finetune_trainer.launch import ALLOCATOR, Child, Launcher, LaunchSettings, read_config
from finetune_trainer.lineage import die_with_parent
from finetune_trainer.node import ENV_RANK_FOLDER, heartbeat_file, write_rank_result
from finetune_trainer.stopping import StopFlag


def main() -> int:
    """Run one verb and return its exit code."""
    parser = argparse.ArgumentParser(prog="finetune_trainer", description=__doc__)
    parser.add_argument("verb", choices=("launch", "run", "fetch", "plan", "data"))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--sha256", required=True)
    parser.add_argument("--parent", type=int, help="launch: save and stop when this process is gone")
    if sys.argv[1:2] == ["predict"]:
        return _predict(sys.argv[2:])
    if sys.argv[1:2] == ["warm"]:
        return _warm()
    if sys.argv[1:2] == ["eval"]:
        return _evaluate(sys.argv[2:])
    arguments = parser.parse_args()
    try:
        config = read_config(arguments.config, arguments.sha256)
    except (DigestMismatch, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return exit_code(Reason.CONFIG_ERROR)
    if arguments.verb == "launch":
        return _launch(arguments.config, arguments.sha256, config, arguments.parent)
    if arguments.verb == "run":
        return _run(config)
    return _tell(_document(config, arguments.verb))


def _launch(
    file: Path,
    sha256: str,
    config: RunConfig,
    parent: int | None,
    fork: Callable[[Mapping[str, str]], Child] | None = None,
) -> int:
    settings = replace(_settings(), parent=parent)
    if settings.node >= config.nodes:
        sys.stderr.write(f"JOB_COMPLETION_INDEX: must be below {config.nodes}, found {settings.node}\n")
        return exit_code(Reason.CONFIG_ERROR)
    return Launcher(file, sha256, config, settings, fork).run()


def _warm() -> int:
    """Fork launchers from a process that has torch loaded; needs the allocator's settings from its start."""
    environment = os.environ  # noqa: TID251 - this is the rim
    if not ALLOCATOR.keys() <= environment.keys():
        os.execve(  # noqa: S606 - our own module
            sys.executable, [sys.executable, "-m", "finetune_trainer", "warm"], {**ALLOCATOR, **environment}
        )
    _set_libraries_up()
    die_with_parent(signal.SIGTERM)
    from finetune_trainer import warm  # noqa: PLC0415 - torch

    return warm.serve(_launch, _run)


def _settings() -> LaunchSettings:
    environment = os.environ  # noqa: TID251 - this is the rim
    log = environment.get("FINETUNE_TERMINATION_LOG")
    defaults = LaunchSettings()
    return LaunchSettings(
        stall_s=float(environment.get("FINETUNE_STALL_SECONDS", defaults.stall_s)),
        grace_s=float(environment.get("FINETUNE_GRACE_SECONDS", defaults.grace_s)),
        termination_log=Path(log) if log else None,
        node=int(environment.get("JOB_COMPLETION_INDEX", "0")),
        port=int(environment.get("FINETUNE_RENDEZVOUS_PORT", RENDEZVOUS_PORT)),
        token_file=Path(environment.get("FINETUNE_TOKEN_FILE", defaults.token_file)),
    )


def _run(config: RunConfig) -> int:
    """Run one rank; its result is written whatever happens."""
    die_with_parent(signal.SIGKILL)
    stop = StopFlag()
    stop.listen()
    environment = os.environ  # noqa: TID251 - this is the rim
    _set_libraries_up()
    rank = int(environment.get("RANK", "0"))
    folder = Path(environment.get(ENV_RANK_FOLDER, config.paths.work))
    folder.mkdir(parents=True, exist_ok=True)
    # Says that this rank runs, before the seconds that torch takes.
    (folder / heartbeat_file(rank)).touch()
    from finetune_trainer import run  # noqa: PLC0415 - torch; signals must be taken before it is imported

    which = run.Rank(
        rank,
        int(environment.get("LOCAL_RANK", "0")),
        int(environment.get("WORLD_SIZE", "1")),
        environment.get("FINETUNE_METRICS_ADDRESS", "127.0.0.1:0"),
        folder,
        Writer(config.job.attempt, environment.get("FINETUNE_POD_UID", "")),
    )
    progress = run.Progress()
    try:
        result = run.train(config, which, stop, progress)
    except Preempted as error:
        sys.stderr.write(f"{error.message}\n")
        result = progress.result("Interrupted")
    except Exception as error:  # noqa: BLE001 - whatever it is, it gets a reason
        result = progress.result("Failed", failure=_failure(error, rank))
    write_rank_result(folder, rank, result)
    if result.outcome == "Complete":
        return COMPLETE
    return exit_code(Reason.PREEMPTED) if result.failure is None else result.failure.exit_code


def _failure(error: Exception, rank: int) -> Failure:
    if isinstance(error, TrainerError):
        return Failure.of(error.reason, error.message, error.remedy, rank)
    traceback.print_exception(error)
    name, text = type(error).__name__, str(error)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in text:
        remedy = "Give more memory, or lower training.batchSize or data.maxLength."
        return Failure.of(Reason.HOST_OUT_OF_MEMORY, f"{name}: {text}", remedy, rank)
    if name == "OutOfMemoryError":
        return Failure.of(Reason.DEVICE_OUT_OF_MEMORY, text, "Use a larger GPU, or lower data.maxLength.", rank)
    if name in {"DistBackendError", "DistNetworkError", "DistStoreError"} or "gloo" in text:
        reason = Reason.COLLECTIVE_TIMEOUT if "imed out" in text else Reason.RENDEZVOUS_FAILED
        return Failure.of(reason, text[:500], "Another process ended or cannot be reached.", rank)
    if isinstance(error, OSError):
        return Failure.of(Reason.STORAGE_UNAVAILABLE, f"{name}: {text}", "Check space and permissions.", rank)
    return Failure.of(Reason.UNKNOWN, f"{name}: {text}", "The traceback is in the log.", rank)


def _document(config: RunConfig, verb: str) -> Callable[[], Mapping[str, Any]]:
    """Return what makes the document of a verb; torch is imported by those that need it."""
    if verb == "fetch":
        from finetune_trainer.fetch import fetch  # noqa: PLC0415 - the hub's client takes a second

        return lambda: fetch(config)
    from finetune_trainer import inspect_job  # noqa: PLC0415 - torch

    return lambda: inspect_job.plan(config) if verb == "plan" else inspect_job.show_data(config)


def _predict(words: list[str]) -> int:
    """Answer rows of a file by an artifact."""
    parser = argparse.ArgumentParser(prog="finetune_trainer predict")
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--base")
    parser.add_argument("--cache", type=Path, required=True)
    found = parser.parse_args(words)
    from finetune_trainer import predicting  # noqa: PLC0415 - torch

    request = predicting.Request(found.artifact, found.input, found.output, found.batch_size, found.base, found.cache)
    return _asked(lambda: predicting.predict(request, sys.stdout))


def _evaluate(words: list[str]) -> int:
    """Judge an artifact by rows: one JSON document, or a failure as for predictions."""
    parser = argparse.ArgumentParser(prog="finetune_trainer eval")
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--metric", action="append", default=[])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--base")
    parser.add_argument("--cache", type=Path, required=True)
    found = parser.parse_args(words)
    from finetune_trainer import evaluating  # noqa: PLC0415 - torch

    request = evaluating.Request(found.artifact, found.data, tuple(found.metric), found.folder, found.base, found.cache)
    return _asked(lambda: sys.stdout.write(json.dumps(evaluating.evaluate(request)) + "\n"))


def _asked(work: Callable[[], object]) -> int:
    """Ask an artifact; a failure is one JSON document, the last line on standard error."""
    try:
        work()
    except TrainerError as error:
        failure = Failure.of(error.reason, error.message, error.remedy)
        sys.stderr.write(json.dumps({"failure": failure.to_dict()}) + "\n")
        return failure.exit_code
    return COMPLETE


def _tell(make: Callable[[], Mapping[str, Any]]) -> int:
    """Print one JSON document; a failure is one too, with the key `failure`, and ends up in the pod's status."""
    try:
        document = make()
    except TrainerError as error:
        failure = Failure.of(error.reason, error.message, error.remedy)
        sys.stdout.write(json.dumps({"failure": failure.to_dict()}) + "\n")
        log = _settings().termination_log
        if log is not None:
            log.write_text(Result(outcome="Failed", failure=failure).to_json(), encoding="utf-8")
        return failure.exit_code
    sys.stdout.write(json.dumps(document) + "\n")
    return COMPLETE


def _set_libraries_up() -> None:
    """Say what libraries read from the environment when they are imported."""
    environment = os.environ  # noqa: TID251 - this is the rim
    environment["TOKENIZERS_PARALLELISM"] = "true"
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written and closed by now; taking torch down takes most of a second.
    os._exit(code)
