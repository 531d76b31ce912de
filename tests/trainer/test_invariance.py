"""Numbers that must not depend on how the work is divided. Tolerance: 1e-4 of the gradient's norm, in float32."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune_trainer import artifacts
from finetune_trainer.card import CardFacts, model_card
from finetune_trainer.checkpoint import verify_manifest
from finetune_trainer.coupling import introduce
from finetune_trainer.distributed import Group
from finetune_trainer.dropout import CheapDropout
from finetune_trainer.evaluate import passes
from finetune_trainer.methods import prepare
from finetune_trainer.models import load_model
from finetune_trainer.objectives import token_losses
from finetune_trainer.preparation import prepare_data
from finetune_trainer.tasks.base import Batch, Coupled, HeadSpec
from finetune_trainer.tasks.first_token import first_token_only
from support.tiny import CASES, manifest, run_config, write_rows

TOLERANCE = 1e-4
ROWS = np.arange(12)
ALONE = Group(0, 1, torch.device("cpu"))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path, tiny: dict[str, Path]) -> Any:
    """A task with data and a full model in evaluation mode (dropout would differ by design)."""
    task = request.param
    rows = write_rows(tmp_path, task)
    config = run_config(tmp_path, manifest(task, tiny[task], rows))
    return Case(config)


class Case:
    def __init__(self, config: Any) -> None:
        self.config = config
        self.data = prepare_data(config)
        self.task, self.table = self.data.task, self.data.encoded["train"].table
        torch.manual_seed(0)
        pretrained = config.spec.model.weights == "pretrained"
        self.loaded = load_model(self.data.files, self.task.head, pretrained=pretrained)
        self.prepared = prepare(config.spec.method, self.loaded)
        self.model = self.prepared.model.eval()

    def gradient(self, pieces: list[np.ndarray]) -> tuple[float, torch.Tensor]:
        """Return loss and gradient of rows in several passes, divided by their common count."""
        count = self.task.targets(self.table, np.concatenate(pieces), 0)
        self.model.zero_grad()
        total = 0.0
        batches = [self.task.collate(self.table, rows, 0) for rows in pieces]
        for batch in introduce(self.task, self.model, batches, ALONE, lambda _: nullcontext()):
            loss = (self.task.loss_sum(self.model, batch) / count).sum()
            loss.backward()
            total += float(loss.detach())
        parts = [each.grad.flatten() for each in self.model.parameters() if each.grad is not None]
        return total, torch.cat(parts)


def close(one: tuple[float, torch.Tensor], other: tuple[float, torch.Tensor]) -> bool:
    return abs(one[0] - other[0]) <= TOLERANCE * abs(one[0]) and bool(
        (one[1] - other[1]).norm() <= TOLERANCE * one[1].norm()
    )


def test_a_batch_equals_its_quarters_accumulated_and_its_single_rows(case: Case):
    whole = case.gradient([ROWS])

    assert close(whole, case.gradient(np.array_split(ROWS, 4)))
    assert close(whole, case.gradient([row.reshape(1) for row in ROWS]))
    assert not close(whole, case.gradient([ROWS[:6]]))


def test_padding_does_not_change_the_loss_of_a_row(case: Case):
    if isinstance(case.task, Coupled):
        pytest.skip("a row's loss depends on its neighbours by design; the next test says that its embedding does not")
    longest = int(case.table.lengths.argmax())

    def loss(*rows: int) -> float:
        return float(case.task.loss_sum(case.model, case.task.collate(case.table, np.array(rows), 0)).detach().sum())

    alone = sum(loss(row) for row in ROWS)
    padded = sum(loss(row, longest) - loss(longest) for row in ROWS)

    assert padded == pytest.approx(alone, rel=TOLERANCE)


def test_predictions_do_not_depend_on_the_batch(case: Case):
    with torch.no_grad():
        whole = case.task.predict(case.model, case.task.collate(case.table, ROWS, None))
        parts = [case.task.predict(case.model, case.task.collate(case.table, r.reshape(1), None)) for r in ROWS]

    for name, values in whole.items():
        apart = np.concatenate([part[name] for part in parts])
        if values.dtype == object:
            assert [str(each) for each in values] == [str(each) for each in apart], name
        else:
            assert np.allclose(values, apart, atol=1e-5), name


def test_an_evaluation_sees_every_row_once(case: Case):
    assert sorted(np.concatenate(passes(case.table)).tolist()) == list(range(len(case.table)))


# Items are learned from nothing, and a low-rank update of random weights is refused.
@pytest.mark.parametrize(
    ("task", "method"),
    [(task, method) for task in CASES for method in ("full", "lora") if (task, method) != ("recommendation", "lora")],
)
def test_an_artifact_is_loaded_back_with_identical_scores_and_merged_equals_adapter(
    task: str, method: str, tmp_path: Path, tiny: dict[str, Path]
):
    formats = ["full"] if method == "full" else ["adapter", "merged"]
    document = manifest(
        task, tiny[task], write_rows(tmp_path, task), method={"type": method}, output={"formats": formats}
    )
    case = Case(run_config(tmp_path, document))
    with torch.no_grad():
        for each in case.prepared.trainable().values():
            each.add_(torch.randn_like(each) * 0.05)
    facts = CardFacts("tiny", case.task.head.kind, case.data.files, case.data.digests, {"train": 48}, 1, {})
    sample = case.task.collate(case.table, ROWS[:4], None)
    told: list[str] = []
    handover = artifacts.Handover(
        case.config.spec,
        case.task,
        case.data.files,
        case.data.processor,
        case.prepared,
        sample,
        model_card(facts, case.config.spec),
        128,
        None,
    )
    place = tmp_path / "artifact"

    artifacts.write_artifact(handover, place, lambda decision: told.append(decision.value))

    assert told == [f"{form} verified" for form in formats]
    assert verify_manifest(place) is None
    assert not list(tmp_path.glob(".artifact*"))
    assert {path.name for path in place.iterdir()} == {"README.md", "manifest.json", "task.json", *formats}


def test_rows_packed_into_one_sequence_do_not_see_each_other(tmp_path: Path, tiny_llama: Path):
    case = Case(run_config(tmp_path, manifest("causal-lm", tiny_llama, write_rows(tmp_path, "causal-lm"))))
    packed = case.task.collate(case.table, ROWS, 0)

    assert "position_ids" in packed.tensors
    assert len(packed.tensors["input_ids"]) < len(ROWS)
    assert close(case.gradient([ROWS]), case.gradient([row.reshape(1) for row in ROWS]))


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "XLMRoberta"])
def test_the_last_layer_for_the_first_token_alone_gives_the_same_scores_and_gradients(kind: str):
    import transformers as t

    config = getattr(t, f"{kind}Config")(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=100
    )
    model = getattr(t, f"{kind}ForSequenceClassification")(config).eval()
    ids, mask = torch.randint(5, 100, (4, 9)), torch.ones(4, 9, dtype=torch.int64)
    mask[1, 5:] = 0

    def outcome() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask).logits
        logits.square().sum().backward()
        return logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    with first_token_only(model):
        assert "forward" in vars(model.base_model.encoder.layer[-1])
        fast = outcome()
    slow = outcome()

    assert torch.allclose(fast[0], slow[0], atol=1e-6)
    assert torch.allclose(fast[1], slow[1], atol=1e-5)


def test_cheap_dropout_keeps_the_expectation_and_follows_the_seed():
    layer, ones = CheapDropout(0.1).train(), torch.ones(1000, 1001)
    torch.manual_seed(3)
    first = layer(ones)
    torch.manual_seed(3)

    assert torch.equal(first, layer(ones))
    assert float((first == 0).double().mean()) == pytest.approx(0.1, abs=2e-3)
    assert float(first.double().mean()) == pytest.approx(1.0, abs=2e-3)
    assert layer.eval()(ones) is ones


def test_chunked_token_losses_equal_whole_ones(monkeypatch: pytest.MonkeyPatch):
    hidden, targets = torch.randn(50, 8, requires_grad=True), torch.randint(20, (50,))
    head = torch.nn.Linear(8, 20)
    whole = F.cross_entropy(head(hidden), targets, reduction="none", label_smoothing=0.1)
    expected = torch.autograd.grad(whole.sum(), hidden)[0]
    monkeypatch.setattr("finetune_trainer.objectives.tokens._CHUNK_ELEMENTS", 20 * 7)
    losses, right = token_losses(hidden, targets, head, 0.1)

    assert torch.allclose(losses, whole)
    assert torch.allclose(torch.autograd.grad(losses.sum(), hidden)[0], expected, atol=1e-6)
    assert torch.equal(right, head(hidden).argmax(-1) == targets)


def test_a_head_that_does_more_than_multiply_is_found_and_computed_in_full():
    from finetune_trainer.tasks.token_head import TokenHead

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(20, 8)

        def forward(self, input_ids: torch.Tensor) -> Any:
            return type("Out", (), {"last_hidden_state": self.embed(input_ids)})

    class Capped(torch.nn.Module):
        def __init__(self, cap: float) -> None:
            super().__init__()
            self.base_model, self.lm_head, self.cap = Backbone(), torch.nn.Linear(8, 20), cap

        def forward(self, input_ids: torch.Tensor) -> Any:
            logits = self.lm_head(self.base_model(input_ids).last_hidden_state)
            return type("Out", (), {"logits": self.cap * torch.tanh(logits / self.cap) if self.cap else logits})

    batch = Batch({"input_ids": torch.randint(20, (2, 5))}, np.arange(2))

    assert TokenHead(("lm_head",), {}).equals_model(Capped(0.0), batch)
    assert not TokenHead(("lm_head",), {}).equals_model(Capped(0.5), batch)


def test_two_processes_end_with_the_weights_of_one_for_every_task(tmp_path: Path, tiny: dict[str, Path]):
    """Real torchrun, gloo, ragged last batch, no dropout; the whole run is compared, not one step."""
    finals: dict[int, dict[str, torch.Tensor]] = {}
    for processes in (1, 2):
        configs: list[str] = []
        for task in CASES:
            folder = tmp_path / f"{processes}-{task}"
            folder.mkdir()
            training = {"maxSteps": 7, "batchSize": 9, "dropout": 0.0 if task != "causal-lm" else None}
            training["precision"] = "fp32"  # bfloat16 rounds by more than the tolerance
            document = manifest(task, tiny[task], write_rows(folder, task), training=training)
            document["spec"]["training"] = {k: v for k, v in document["spec"]["training"].items() if v is not None}
            document["spec"]["checkpoint"] = {"every": "7steps"}
            config = run_config(folder, document, processes)
            (folder / "run.json").write_text(config.to_json())
            configs.append(str(folder / "run.json"))
        script = Path(__file__).parent.parent / "support" / "train_all.py"
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", str(script), *configs]
        done = subprocess.run([sys.executable, *run], check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
        finals[processes] = {task: (tmp_path / f"{processes}-{task}/work/checkpoints/step-00000007") for task in CASES}
    from safetensors.torch import load_file

    for task in CASES:
        one, two = (load_file(finals[n][task] / "state.safetensors") for n in (1, 2))
        # exp_avg is the gradients of all steps, weighted. Weights are compared as a whole: AdamW scales a gradient that
        # is rounding noise, such as that of a key's bias, up to a whole step, so one such element is nobody's.
        for part in ("optimizer/exp_avg/", "model/"):
            names = [name for name in one if name.startswith(part)]
            whole = torch.stack([one[name].norm() for name in names]).norm()
            for name in names:
                assert (one[name] - two[name]).norm() <= TOLERANCE * whole, (task, name)
        assert json.loads((finals[2][task] / "meta.json").read_text())["world"] == 2


def test_a_loaded_folder_scores_as_the_saved_model(tmp_path: Path, tiny_bert: Path):
    from finetune_trainer.models import load_folder
    from finetune_trainer.sources import Places, locate_model

    head = HeadSpec("sequence-classification", {"num_labels": 3})
    model = load_model(locate_model(f"file://{tiny_bert}", Places(tmp_path, tmp_path)), head, pretrained=True).model
    model.eval().save_pretrained(tmp_path / "saved")
    ids = torch.randint(5, 100, (2, 7))

    assert torch.equal(model(ids).logits, load_folder(tmp_path / "saved", head).eval()(ids).logits)
