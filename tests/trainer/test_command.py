"""The finetune command with real processes, on one tiny and one real model."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.status import FineTuneJobStatus
from support.tiny import manifest, write_rows

FINETUNE = [sys.executable, "-m", "finetune_cli.main"]


def finetune(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FINETUNE, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300)


def write_manifest(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_run_is_interrupted_by_ctrl_c_continued_by_the_same_command_and_not_repeated(tmp_path: Path, tiny_bert: Path):
    rows = write_rows(tmp_path, "text-classification")
    document = manifest(
        "text-classification",
        tiny_bert,
        rows,
        training={"maxSteps": 600},
        data={"test": {"fraction": 0.2}},
        tracking=["tensorboard"],
    )
    job = write_manifest(tmp_path, document)
    with subprocess.Popen([*FINETUNE, "run", str(job), "-o", "jsonl"], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if '"progress"' in line:
                first.send_signal(signal.SIGINT)
                break
        last = first.stdout.read().splitlines()[-1]
    assert first.returncode == 130
    interrupted = FineTuneJobStatus.model_validate_json(last)
    assert interrupted.phase == "Interrupted"
    assert interrupted.checkpoint is not None

    second = finetune("run", job, "-o", "json")
    assert second.returncode == 0, second.stderr
    status = FineTuneJobStatus.model_validate_json(second.stdout)
    assert [c.status for c in status.conditions if c.type in {"Complete", "Finished"}] == ["True", "True"]
    assert status.result is not None
    assert "test/accuracy" in status.result.metrics
    assert "microBatch" in status.resolved
    assert list((tmp_path / ".finetune/tiny/tracking/tensorboard").rglob("events.out*"))

    events = tmp_path / ".finetune/tiny/events.jsonl"
    before = events.read_bytes()
    assert finetune("run", job).returncode == 0
    assert events.read_bytes() == before


def test_a_killed_command_leaves_a_saved_step_and_a_work_folder_for_one_run_at_a_time(tmp_path: Path, tiny_bert: Path):
    rows = write_rows(tmp_path, "text-classification")
    document = manifest("text-classification", tiny_bert, rows, training={"maxSteps": 20_000})
    job = write_manifest(tmp_path, document)
    with started(job) as first:
        read_to(first, '"progress"')
        beside = finetune("run", job)
        first.kill()
    with started(job) as after:
        continued = read_to(after, "continues from step")
        after.send_signal(signal.SIGINT)
        after.communicate(timeout=300)

    assert beside.returncode == 1
    assert f"{tmp_path / '.finetune/tiny'}: another command uses this work folder." in beside.stderr
    assert re.search(r"continues from step [1-9]", continued)
    assert after.returncode == 130


def started(job: Path) -> subprocess.Popen[str]:
    command = [*FINETUNE, "run", str(job), "-o", "jsonl"]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read_to(command: subprocess.Popen[str], text: str) -> str:
    """Read a command's lines up to one with a text, and return that."""
    assert command.stdout is not None
    return next(line for line in command.stdout if text in line)


def test_two_processes_train_judge_and_hand_over(tmp_path: Path, tiny_bert: Path):
    rows = write_rows(tmp_path, "text-classification")
    document = manifest(
        "text-classification",
        tiny_bert,
        rows,
        workers={"processesPerNode": 2},
        method={"type": "lora"},
        data={"test": {"fraction": 0.2}},
        output={"formats": ["adapter", "merged"]},
    )
    done = finetune("run", write_manifest(tmp_path, document), "-o", "json")

    assert done.returncode == 0, done.stdout
    assert (tmp_path / ".finetune/tiny/artifact/merged/model.safetensors").exists()


def test_a_failure_ends_with_its_reason_and_remedy_and_exit_code_one(tmp_path: Path, tiny_bert: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a", "label": "x"}\n{"text": ""}\n')
    done = finetune("run", write_manifest(tmp_path, manifest("text-classification", tiny_bert, rows)))

    assert done.returncode == 1
    assert "Failed: DataError: rows.jsonl, row 2:" in done.stdout
    assert not (tmp_path / ".finetune/tiny/artifact").exists()


def test_an_invalid_manifest_exits_two_and_writes_nothing(tmp_path: Path, tiny_bert: Path):
    document = manifest("text-classification", tiny_bert, tmp_path / "x.jsonl", method={"rank": 8})
    done = finetune("run", write_manifest(tmp_path, document))

    assert done.returncode == 2
    assert (
        "spec.method.rank: only for method.type lora or adalora, found 8. Remove it, "
        "or set method.type: lora or adalora."
    ) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_plan_and_data_explain_a_job_without_training(tmp_path: Path, tiny_llama: Path):
    rows = write_rows(tmp_path, "causal-lm")
    job = write_manifest(tmp_path, manifest("causal-lm", tiny_llama, rows, method={"type": "lora"}))
    plan, data = (finetune(verb, job, "-o", "json") for verb in ("plan", "data"))

    found = json.loads(plan.stdout)
    assert all(each["reason"] for each in found["decisions"])
    assert 0 < found["parameters"]["trainable"] < found["parameters"]["total"]
    assert found["steps"]["total"] == 4
    samples = json.loads(data.stdout)["samples"]
    assert [piece["supervised"] for piece in samples[0]["pieces"]] == [False, True]
    assert finetune("data", job).stdout.count("tokens or less") > 0


def test_learned_tokens_are_coloured_and_the_others_dimmed(tmp_path: Path, tiny_llama: Path):
    job = write_manifest(tmp_path, manifest("causal-lm", tiny_llama, write_rows(tmp_path, "causal-lm")))
    terminal = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}  # noqa: TID251
    shown = subprocess.run(
        [*FINETUNE, "data", str(job)], capture_output=True, text=True, check=True, timeout=300, env=terminal
    ).stdout

    green, dim = "\x1b[1;32m", "\x1b[2m"
    assert re.search(re.escape(dim) + "[^\x1b]*user : the", shown)
    assert re.search(re.escape(green) + "[^\x1b]*yes it is", shown)


def test_the_manifest_is_read_as_kubectl_reads_it(tmp_path: Path):
    from finetune_api.validation import InvalidSpec
    from finetune_cli.manifest import load_job

    text = (Path(__file__).parents[2] / "examples" / "movie-sentiment.yaml").read_text()
    job = tmp_path / "job.yaml"
    job.write_text(text.replace("0.001", "2e-4"))
    assert load_job(job, ["training.epochs=2", "method={type: full}", "output.formats=null"]).spec.training.epochs == 2
    assert load_job(job, []).spec.training.learning_rate == 2e-4
    job.write_text(text.replace("  task:", "  task: causal-lm\n  task:"))
    with pytest.raises(InvalidSpec, match="'task' stands twice"):
        load_job(job, [])


def test_every_example_is_valid(pytestconfig: pytest.Config):
    examples = sorted((pytestconfig.rootpath / "examples").glob("*.yaml"))

    assert len(examples) >= 5
    for example in examples:
        assert finetune("validate", example).returncode == 0, example.name


def test_the_command_does_not_import_torch_or_the_trainer():
    code = "import sys, finetune_cli.main as m; print([n for n in sys.modules if n in ('torch','finetune_trainer')])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_demo_trains_the_real_model_for_a_few_steps(tmp_path: Path, pytestconfig: pytest.Config):
    example = pytestconfig.rootpath / "examples" / "movie-sentiment.yaml"
    sets = ["--set", "training={maxSteps: 60, batchSize: 32, learningRate: 0.0002}", "--set", "evaluation.gate=null"]
    sets += ["--set", "method={type: full}", "--set", "output.formats=null"]
    done = finetune("run", example, "--workdir", tmp_path / "work", *sets, "-o", "json")

    assert done.returncode == 0, done.stdout
    status = FineTuneJobStatus.model_validate_json(done.stdout)
    assert status.result is not None
    assert float(status.result.metrics["test/accuracy"]) > 0.65
    assert status.result.artifact is not None
    assert os.path.isdir(status.result.artifact.uri)  # noqa: PTH112
