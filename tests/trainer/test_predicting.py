"""What an artifact answers is what the trained model was judged by."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_trainer import evaluating, predicting
from finetune_trainer.evaluate import refer
from finetune_trainer.opening import open_artifact
from finetune_trainer.preparation import prepare_data
from finetune_trainer.tasks.base import Asked, Attachment
from support.tiny import CASES, manifest, one_row, run_config, train, write_rows

_HIDDEN = {
    "text-classification": "label",
    "text-regression": "label",
    "token-classification": "tags",
    "question-answering": "answers",
    "multiple-choice": "label",
    "translation": "target",
    "summarization": "summary",
    "image-classification": "label",
    "audio-classification": "label",
    "speech-recognition": "text",
    "object-detection": "objects",
    "semantic-segmentation": "mask",
    "multimodal-classification": "label",
    "image-captioning": "caption",
    "visual-question-answering": "answer",
}
"""The column that is to be found, which the asked rows lack."""


def asked(row: dict[str, Any], task: str) -> dict[str, Any]:
    if task == "recommendation":
        return {"items": row["items"][:-1]}
    return {name: value for name, value in row.items() if name != _HIDDEN.get(task.partition(":")[0])}


def close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, abs=1e-3, rel=1e-3) if isinstance(one, float) else one == other


def as_kept(answer: Any) -> Any:
    """What predictions.parquet keeps of an answer: no vectors, and of masks the shares of their classes."""
    return {name: each for name, each in answer.items() if not name.lower().endswith("vector") and name != "mask"}


@pytest.mark.parametrize("task", CASES)
def test_an_artifact_answers_rows_without_labels_as_the_run_judged_them(
    task: str, tmp_path: Path, tiny: dict[str, Path]
):
    rows = write_rows(tmp_path, task)
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(one_row(task, index)) + "\n" for index in range(12)))
    document = manifest(
        task, tiny[task], rows, data={"test": {"uri": f"file://{test}"}}, training={"precision": "fp32"}
    )
    config = run_config(tmp_path, document)
    done = train(config)
    folder = tmp_path / "judged"
    judged_again = evaluating.evaluate(evaluating.Request(tmp_path / "artifact", test, (), folder, None, tmp_path))
    assert {f"test/{name}": value for name, value in judged_again["metrics"].items()} == done.metrics
    again, before = (
        pq.read_table(each / "predictions.parquet") for each in (folder, tmp_path / "work/evaluation/test")
    )
    assert again.equals(before)
    assert (folder / "report.html").exists()
    lines = [json.dumps(asked(one_row(task, index), task)) + "\n" for index in range(12)]
    (tmp_path / "asked.jsonl").write_text("".join(lines))
    output = tmp_path / "answers.jsonl"

    count = predicting.predict(
        predicting.Request(tmp_path / "artifact", tmp_path / "asked.jsonl", output, 1024, None, tmp_path), sys.stdout
    )
    told = [json.loads(line)["prediction"] for line in output.read_text().splitlines()]

    opened = open_artifact(tmp_path / "artifact", None, tmp_path)
    data = prepare_data(config)
    answerer = predicting.Answerer(opened)
    assert isinstance(data.task, Asked)
    if task == "causal-lm":
        assert all(set(each) == {"text"} for each in told)
        assert (
            pq.read_table(tmp_path / "work/evaluation/test/predictions.parquet")["expected"].to_pylist()[0]
            == "yes it is"
        )
        return
    encoded = data.encoded["test"]
    ready = answerer.ready
    if ready.before is not None:
        encoded = refer(ready.judge, ready.before, {"test": encoded})["test"]
    compute = data.task.predict
    if task == "semantic-segmentation":  # judged by numbers of pixels; what is told are masks
        compute = answerer._compute(encoded)
        told = [each | {"mask": Attachment((tmp_path / each["mask"]).read_bytes(), ".png")} for each in told]
    found = data.task.tell(ready.judge.every(ready.model, encoded.table, compute), encoded.examples)
    judged = list({id(example): answer for example, answer in zip(encoded.examples, found, strict=True)}.values())

    assert count == len(told) == len(judged) == 12
    assert all(map(close, told, judged))
    kept = pq.read_table(tmp_path / "work/evaluation/test/predictions.parquet").to_pylist()
    assert [(each["file"], each["row"]) for each in kept] == [("test.jsonl", number) for number in range(1, 13)]
    assert all(close(json.loads(each["prediction"]), as_kept(own)) for each, own in zip(kept, judged, strict=True))


def test_images_in_cells_come_back_with_their_answer(tmp_path: Path, tiny: dict[str, Path]):
    task = "image-classification"
    train(run_config(tmp_path, manifest(task, tiny[task], write_rows(tmp_path, task))))
    cells = [(tmp_path / "images" / f"{index}.png").read_bytes() for index in range(5)]
    pq.write_table(
        pa.table({"image": [{"bytes": each, "path": "x.png"} for each in cells]}), tmp_path / "asked.parquet"
    )
    output = tmp_path / "answers.parquet"

    predicting.predict(
        predicting.Request(tmp_path / "artifact", tmp_path / "asked.parquet", output, 2, None, tmp_path), sys.stdout
    )

    answers = pq.read_table(output).to_pylist()
    assert [each["image"]["bytes"] for each in answers] == cells
    assert {each["prediction"]["label"] for each in answers} <= {"lying", "standing"}
