"""Numbers of every method that must not depend on how the work is divided. Tolerance: 1e-4 of the norm, in float32."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from support.method_cases import CASES, cases, document, prepared_model
from support.tiny import run_config

TOLERANCE = 1e-4
ROWS = np.arange(12)


def gradient(data: Any, prepared: Any, pieces: list[np.ndarray]) -> torch.Tensor:
    """Return the gradient of rows in several passes, divided by their common count."""
    task, table, model = data.task, data.encoded["train"].table, prepared.model.eval()
    count = task.targets(table, np.concatenate(pieces), 0)
    for rows in pieces:
        (task.loss_sum(model, task.collate(table, rows, 0)) / torch.as_tensor(count)).sum().backward()
    found = [each.grad.flatten() for each in prepared.trainable().values() if each.grad is not None]
    for each in prepared.trainable().values():
        each.grad = None
    return torch.cat(found)


@pytest.mark.parametrize(("name", "task"), cases())
def test_a_batch_equals_its_quarters_accumulated_and_its_single_rows(
    name: str, task: str, tmp_path: Path, tiny: dict[str, Path]
):
    _, data, prepared = prepared_model(tmp_path, document(name, task, tmp_path, tiny[task]))
    with torch.no_grad():
        for each in prepared.trainable().values():
            each.add_(torch.randn_like(each) * 0.02)
    whole = gradient(data, prepared, [ROWS])

    assert float(whole.norm()) > 0
    for pieces in (np.array_split(ROWS, 4), [row.reshape(1) for row in ROWS]):
        assert (whole - gradient(data, prepared, pieces)).norm() <= TOLERANCE * whole.norm()
    assert (whole - gradient(data, prepared, [ROWS[:6]])).norm() > TOLERANCE * whole.norm()


def test_two_processes_end_with_the_weights_of_one_for_every_method(tmp_path: Path, tiny: dict[str, Path]):
    """Real torchrun, gloo, ragged last batch, no dropout; the whole run is compared, not one step."""
    chosen = [(name, next(task for each, task in cases() if each == name)) for name in CASES]
    for processes in (1, 2):
        configs: list[str] = []
        for name, task in chosen:
            folder = tmp_path / f"{processes}-{name}"
            folder.mkdir()
            without = {"dropout": 0.0} if CASES[name]["type"] in {"lora", "adalora"} else {}
            training = {"maxSteps": 7, "batchSize": 9, "precision": "fp32", "dropout": 0.0}
            described = document(name, task, folder, tiny[task], training=training, checkpoint={"every": "7steps"})
            described["spec"]["method"] |= without
            config = run_config(folder, described, processes)
            (folder / "run.json").write_text(config.to_json())
            configs.append(str(folder / "run.json"))
        script = Path(__file__).parent.parent / "support" / "train_all.py"
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", str(script), *configs]
        done = subprocess.run([sys.executable, *run], check=False, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]

    for name, _ in chosen:
        places = [tmp_path / f"{n}-{name}/work/checkpoints/step-00000007" for n in (1, 2)]
        one, two = (load_file(place / "state.safetensors") for place in places)
        # As a whole: AdamW scales a gradient that is rounding noise up to a whole step.
        for part in ("optimizer/exp_avg/", "model/"):
            names = [each for each in one if each.startswith(part)]
            whole = torch.stack([one[each].norm() for each in names]).norm()
            apart = torch.stack([(one[each] - two[each]).norm() for each in names]).norm()
            assert apart <= 10 * TOLERANCE * whole, (name, part, float(apart / whole))
        assert torch.equal(one["optimizer/moves"], two["optimizer/moves"]), name
        assert json.loads((places[1] / "meta.json").read_text())["world"] == 2
