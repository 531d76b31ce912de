"""What is minimised, against torch, scikit-learn and the formulas, and for any division of the work."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from finetune_trainer.building import build_model, prove
from finetune_trainer.errors import ConfigError, DataError, Preempted
from finetune_trainer.objectives import ClassLoss, anchoring, balanced_weights, error_losses
from finetune_trainer.preparation import prepare_data
from finetune_trainer.reporting import Reporter
from finetune_trainer.run import Progress, Rank, train
from finetune_trainer.stopping import StopFlag
from support.stopping import StopAfter
from support.teachers import save_teacher
from support.tiny import manifest, run_config, write_rows

CLASSES, NUMBERS = "text-classification", "text-regression"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "weights": (CLASSES, {"classWeights": {"good": 5.0}}),
    "weights-smoothed": (CLASSES, {"classWeights": {"good": 5.0}, "labelSmoothing": 0.1}),
    "balanced": (CLASSES, {"balanceClasses": True}),
    "focal": (CLASSES, {"loss": "focal", "focalGamma": 1.5, "classWeights": {"bad": 0.25}}),
    "absolute": (NUMBERS, {"loss": "absolute-error"}),
    "huber": (NUMBERS, {"loss": "huber", "huberDelta": 0.5}),
    "anchor": (CLASSES, {"anchor": 0.5}),
    "distilled": (CLASSES, {"distillation": {"teacher": "file://teacher"}, "classWeights": {"good": 5.0}}),
    "r-drop": (CLASSES, {"rDrop": 2.0}),
    "fgm": (CLASSES, {"adversarial": {"type": "fgm"}}),
    "pgd": (CLASSES, {"adversarial": {"type": "pgd", "steps": 2, "share": 1.0}}),
    "freelb": (CLASSES, {"adversarial": {"type": "freelb", "share": 0.7}, "loss": "focal"}),
    "ewc": (CLASSES, {"ewc": {"data": {"uri": "file://text-classification.jsonl"}, "rows": 5, "strength": 30.0}}),
    "replay": (CLASSES, {"replay": {"data": {"uri": "file://text-classification.jsonl"}, "rows": 7}}),
    "smart": (NUMBERS, {"adversarial": {"type": "smart", "weight": 3.0}}),
}
HERE = torch.device("cpu")
TOLERANCE = 1e-4


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def document(name: str, folder: Path, model: Path, /, **training: Any) -> dict[str, Any]:
    task, fields = copy.deepcopy(CASES[name])
    settings = {"maxSteps": 6, "batchSize": 9, "precision": "fp32", "learningRate": 0.01, **fields, **training}
    rows = write_rows(folder, task, 50)
    if "distillation" in fields:
        save_teacher(folder / "teacher", task)
    if task == CLASSES:  # rare enough for weights to matter
        rows.write_text(
            "".join(line for k, line in enumerate(rows.read_text().splitlines(keepends=True)) if k % 4 != 1)
        )
    return manifest(task, model, rows, training=settings, checkpoint={"every": "6steps"})


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_cross_entropy_over_its_count_is_torchs_weighted_mean(smoothing: float):
    logits, labels = torch.randn(40, 3, generator=rng()), torch.randint(3, (40,), generator=rng())
    loss = ClassLoss(smoothing, weights=(0.2, 1.0, 7.0))
    mine = loss.one_of(logits, labels).sum() / loss.count(labels.numpy())

    theirs = F.cross_entropy(logits, labels, weight=torch.tensor([0.2, 1.0, 7.0]), label_smoothing=smoothing)
    assert torch.allclose(mine, theirs)


def test_balanced_weights_are_scikit_learns():
    labels = np.array([0] * 7 + [1] * 2 + [2])

    assert balanced_weights([7, 2, 1]) == pytest.approx(
        compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    )


def test_focal_loss_is_the_formula_of_its_paper_and_cross_entropy_without_gamma():
    logits, labels = torch.randn(20, 4, generator=rng()).double(), torch.randint(4, (20,), generator=rng())
    right = torch.softmax(logits, dim=-1)[torch.arange(20), labels]
    assert torch.allclose(ClassLoss(gamma=2.0).one_of(logits, labels), -((1 - right) ** 2) * right.log())
    assert torch.equal(ClassLoss(gamma=0.0).one_of(logits, labels), F.cross_entropy(logits, labels, reduction="none"))

    some = torch.randint(2, (20, 4), generator=rng()).double()
    p = torch.where(some > 0, torch.sigmoid(logits), 1 - torch.sigmoid(logits))
    assert torch.allclose(ClassLoss(gamma=2.0).any_of(logits, some), -((1 - p) ** 2) * p.log())


def test_errors_are_torchs():
    predicted, truth = torch.randn(30, generator=rng()) * 2, torch.randn(30, generator=rng())
    wanted = {
        "squared-error": F.mse_loss(predicted, truth, reduction="sum"),
        "absolute-error": F.l1_loss(predicted, truth, reduction="sum"),
        "huber": F.huber_loss(predicted, truth, reduction="sum", delta=0.5),
    }

    for kind, reference in wanted.items():
        assert torch.allclose(error_losses(kind, predicted - truth, 0.5).sum(), reference), kind


def test_the_anchors_gradient_is_that_of_the_squared_distance_and_leaves_new_weights_alone():
    old, new, unused = (torch.nn.Parameter(torch.randn(3, 2)) for _ in range(3))
    start = old.detach().clone()
    (hook,) = anchoring({"old": old, "new": new, "unused": unused}, {"new"}, 0.3)
    with torch.no_grad():
        old.add_(1.5)
    loss = (old**3).sum() + (new**3).sum()
    loss.backward()
    hook.before_update(0)

    wanted = torch.autograd.grad((old**3).sum() + 0.5 * 0.3 * ((old - start) ** 2).sum(), old)[0]
    assert old.grad is not None
    assert new.grad is not None
    assert torch.allclose(old.grad, wanted)
    assert torch.equal(new.grad, 3 * new.detach() ** 2)
    assert unused.grad is None


def test_importances_are_the_mean_squares_of_the_rows_gradients_and_pull_by_them(tmp_path: Path, tiny_bert: Path):
    config = run_config(tmp_path, document("ewc", tmp_path, tiny_bert))
    data, reporter = prepare_data(config), Reporter(tmp_path, 0)
    prepared = build_model(config.spec, data, HERE, reporter)
    reporter.close()
    assert data.earlier is not None
    model, parameters = prepared.model.eval(), prepared.trainable()
    name, fresh = "bert.encoder.layer.0.output.dense.weight", "classifier.weight"
    wanted = torch.zeros_like(parameters[name])
    for row in range(5):
        batch = data.task.collate(data.earlier.table, np.array([row]), None)
        loss = F.cross_entropy(model(**batch.inputs()).logits, batch.tensors["labels"])
        wanted += torch.autograd.grad(loss, parameters[name])[0] ** 2 / 5
    with torch.no_grad():
        for each in parameters.values():
            each.add_(0.5)
            each.grad = torch.ones_like(each)
    for hook in prepared.hooks:
        hook.before_update(0)

    assert len(data.earlier.table) == 5
    assert float(wanted.max()) > 0
    assert parameters[name].grad is not None
    assert torch.allclose(parameters[name].grad, 1 + 30.0 * wanted * 0.5, rtol=1e-3)
    assert torch.equal(torch.ones_like(parameters[fresh]), parameters[fresh].grad)


def test_replayed_rows_are_trained_on_and_never_held_out(tmp_path: Path, tiny_bert: Path):
    described = document("replay", tmp_path, tiny_bert)
    earlier = "".join(f'{{"text": "an earlier film {n}", "label": "good"}}\n' for n in range(30))
    (tmp_path / "earlier.jsonl").write_text(earlier)
    described["spec"]["data"]["validation"] = {"fraction": 0.3}
    alone = prepare_data(run_config(tmp_path, described | {"spec": without(described["spec"], "replay")}))
    described["spec"]["training"]["replay"]["data"]["uri"] = "file://earlier.jsonl"
    data = prepare_data(run_config(tmp_path, described))
    added = data.encoded["train"].examples[len(alone.encoded["train"].examples) :]

    assert len(added) == 7
    assert all(each.text.startswith("an earlier film") for each in added)
    assert [each.text for each in data.splits.validation] == [each.text for each in alone.splits.validation]
    assert len(data.encoded["train"].table) == len(alone.encoded["train"].table) + 7


def without(spec: dict[str, Any], field: str) -> dict[str, Any]:
    return spec | {"training": {name: each for name, each in spec["training"].items() if name != field}}


def test_an_earlier_row_with_a_label_of_its_own_is_refused(tmp_path: Path, tiny_bert: Path):
    described = document("ewc", tmp_path, tiny_bert)
    (tmp_path / "text-classification.jsonl").rename(tmp_path / "rows.jsonl")
    described["spec"]["data"]["train"]["uri"] = "file://rows.jsonl"
    (tmp_path / "text-classification.jsonl").write_text('{"text": "the film", "label": "odd"}\n')

    with pytest.raises(DataError, match=r"ewc.data: .*jsonl.*1: no training row has the label 'odd'"):
        prepare_data(run_config(tmp_path, described))


@pytest.mark.parametrize("name", [name for name in CASES if name not in {"anchor", "ewc"}])
def test_a_batch_equals_its_quarters_and_its_single_rows(name: str, tmp_path: Path, tiny: dict[str, Path]):
    config = run_config(tmp_path, document(name, tmp_path, tiny[CASES[name][0]]))
    data, reporter = prepare_data(config), Reporter(tmp_path, 0)
    prepared = build_model(config.spec, data, HERE, reporter)
    objective, model = prove(config, data, prepared, HERE, reporter).objective, prepared.model.eval()
    table = data.encoded["train"].table
    reporter.close()

    def gradient(pieces: list[np.ndarray]) -> torch.Tensor:
        count = objective.targets(table, np.concatenate(pieces), 0)
        model.zero_grad()
        for rows in pieces:
            (objective.loss_sum(model, objective.collate(table, rows, 0)) / count).backward()
        return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])

    rows = np.arange(12)
    whole = gradient([rows])
    for pieces in (np.array_split(rows, 4), [row.reshape(1) for row in rows]):
        assert (whole - gradient(pieces)).norm() <= TOLERANCE * whole.norm()
    assert (whole - gradient([rows[:6]])).norm() > TOLERANCE * whole.norm()


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.parametrize("name", CASES)
def test_a_stopped_run_ends_as_the_undisturbed_one_and_not_as_one_without_the_term(
    name: str, tmp_path: Path, tiny: dict[str, Path]
):
    finals: list[dict[str, torch.Tensor]] = []
    for way in ("calm", "stopped", "plain"):
        (tmp_path / way).mkdir()
        described = document(name, tmp_path / way, tiny[CASES[name][0]])
        if way == "plain":
            for field in CASES[name][1]:
                del described["spec"]["training"][field]
        config, progress = run_config(tmp_path / way, described), Progress()
        if way == "stopped":
            with pytest.raises(Preempted):
                train(config, Rank(), StopAfter(progress, 3), progress)
            progress = Progress()
        train(config, Rank(), StopFlag(), progress)
        finals.append(load_file(tmp_path / way / "work/checkpoints/step-00000006/state.safetensors"))
    calm, stopped, plain = finals

    assert [each for each in calm if not torch.equal(calm[each], stopped[each])] == []
    assert any(not torch.equal(calm[each], plain[each]) for each in calm)


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path, tiny: dict[str, Path]):
    # Without dropout, whose bits are a process's own; R-Drop refuses a model without it.
    names = [name for name in CASES if name != "r-drop"]
    for processes in (1, 2):
        configs: list[str] = []
        for name in names:
            folder = tmp_path / f"{processes}-{name}"
            folder.mkdir()
            config = run_config(folder, document(name, folder, tiny[CASES[name][0]], dropout=0.0), processes)
            (folder / "run.json").write_text(config.to_json())
            configs.append(str(folder / "run.json"))
        script = Path(__file__).parent.parent / "support" / "train_all.py"
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", str(script), *configs]
        done = subprocess.run([sys.executable, *run], check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]

    for name in names:
        places = [tmp_path / f"{n}-{name}/work/checkpoints/step-00000006" for n in (1, 2)]
        one, two = (load_file(place / "state.safetensors") for place in places)
        weights = [each for each in one if each.startswith("model/")]
        whole = torch.stack([one[each].norm() for each in weights]).norm()
        apart = torch.stack([(one[each] - two[each]).norm() for each in weights]).norm()
        assert apart <= 10 * TOLERANCE * whole, (name, float(apart / whole))
        assert json.loads((places[1] / "meta.json").read_text())["world"] == 2


def test_a_weight_of_an_unknown_class_is_refused_by_name(tmp_path: Path, tiny_bert: Path):
    described = document("weights", tmp_path, tiny_bert, classWeights={"goood": 2.0})

    with pytest.raises(ConfigError, match="goood"):
        prepare_data(run_config(tmp_path, described))
