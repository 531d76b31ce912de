"""The parts that replace torch's own on a CPU compute the same: attention with dropout, embeddings by row, bfloat16."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune_trainer.attention import attend
from finetune_trainer.dropout import draw_mask, threshold_of
from finetune_trainer.embedding import RowEmbedding, use_row_gradients
from finetune_trainer.run import Progress, Rank, train
from finetune_trainer.stopping import StopFlag
from support.tiny import CASES, manifest, run_config, write_rows

PROBABILITY = 0.25


def heads(tokens: int) -> Tensor:
    """Return [B, H, T, D] as a model's projections lie in memory: heads last."""
    return torch.randn(3, tokens, 2, 8).transpose(1, 2).requires_grad_()


@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_dropout_is_the_formula_with_the_weights_dropped(*, masked: bool):
    query, key, value = heads(5), heads(7), heads(7)
    mask = None
    if masked:
        mask = torch.ones(3, 1, 5, 7, dtype=torch.bool)
        mask[1, ..., 4:] = False
    weight = torch.randn(3, 2, 5, 8)
    torch.manual_seed(1)
    found = attend(query, key, value, mask, dropout_p=PROBABILITY, scaling=0.3)
    gradients = torch.autograd.grad((found * weight).sum(), (query, key, value))

    torch.manual_seed(1)
    kept = draw_mask((3, 2, 5, 7), threshold_of(PROBABILITY), torch.float32) != 0
    scores = query @ key.transpose(-1, -2) * 0.3
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    expected = (scores.softmax(-1) * kept / (1 - PROBABILITY)) @ value
    assert torch.allclose(found, expected, atol=1e-5)
    for ours, theirs in zip(
        gradients, torch.autograd.grad((expected * weight).sum(), (query, key, value)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert 0.5 < float(kept.float().mean()) < 1.0


def test_attention_without_dropout_is_torchs_own():
    query, key, value = heads(5), heads(5), heads(5)

    assert torch.equal(
        attend(query, key, value, None, dropout_p=0.0, scaling=0.3),
        F.scaled_dot_product_attention(query, key, value, scale=0.3),
    )


def test_an_embeddings_gradient_by_row_is_the_dense_one_over_passes_and_steps():
    plain = nn.Embedding(50, 4, padding_idx=0)
    ours = nn.Embedding(50, 4, padding_idx=0)
    ours.load_state_dict(plain.state_dict())
    use_row_gradients(nn.Sequential(ours))
    for _ in range(3):
        plain.weight.grad = ours.weight.grad = None
        for _ in range(2):
            ids, weight = torch.randint(0, 50, (3, 6)), torch.randn(3, 6, 4)
            for table in (plain, ours):
                (table(ids) * weight).sum().backward()

        assert isinstance(ours, RowEmbedding)
        assert ours.weight.grad is not None
        assert plain.weight.grad is not None
        assert torch.allclose(ours.weight.grad, plain.weight.grad, atol=1e-6)


def test_a_table_that_is_also_the_head_gets_the_gradient_of_both():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 4)
            self.head = nn.Linear(4, 20, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids).tanh()).logsumexp(-1).sum()

    plain, ours = Tied(), Tied()
    ours.load_state_dict(plain.state_dict())
    use_row_gradients(ours)
    for _ in range(3):
        plain.zero_grad()
        ours.zero_grad()
        for _ in range(2):
            ids = torch.randint(0, 20, (5,))
            plain(ids).backward()
            ours(ids).backward()

        assert plain.table.weight.grad is not None
        assert ours.table.weight.grad is not None
        assert torch.allclose(ours.table.weight.grad, plain.table.weight.grad, atol=1e-5)


@pytest.mark.parametrize("task", CASES)
def test_every_task_runs_from_data_to_artifact_in_bfloat16(task: str, tmp_path: Path, tiny: dict[str, Path]):
    training = {"maxSteps": 2, "precision": "bf16"}
    data = {"test": {"fraction": 0.25}}
    document = manifest(task, tiny[task], write_rows(tmp_path, task), training=training, data=data)

    result = train(run_config(tmp_path, document), Rank(), StopFlag(), Progress())

    assert result.metrics["test/loss"] > 0.0
    assert (tmp_path / "artifact" / "manifest.json").exists()


_LOAD_AND_SAVE = """
import sys
from pathlib import Path
from finetune_trainer import run
from finetune_trainer.models import load_folder, load_model, save_folder
from finetune_trainer.sources import ModelFiles
from finetune_trainer.tasks.base import HeadSpec

folder, out = map(Path, sys.argv[1:])
head = HeadSpec("sequence-classification", {})
loaded = load_model(ModelFiles("file://model", folder, None, None), head, pretrained=True)
save_folder(loaded.model, out)
load_folder(out, head)
heavy = {"torch._dynamo", "sympy", "scipy", "accelerate", "torch.distributed.tensor"} & set(sys.modules)
import torch, transformers.utils as utils

print(heavy, utils.is_scipy_available(), torch.compiler.disable.__module__, torch._dynamo.__name__)
print(torch.empty_like(torch.empty(2, device="meta"), device="cpu").shape, torch.nn.init.zeros_(torch.ones(2)))
from torch.distributed.tensor import DTensor
from transformers.masking_utils import TransformGetItemToIndex

print(type(TransformGetItemToIndex()).__module__)
"""


def test_importing_loading_and_saving_leave_out_the_compiler_and_leave_everything_as_it_was(
    tiny_bert: Path, tmp_path: Path
):
    command = [sys.executable, "-P", "-c", _LOAD_AND_SAVE, str(tiny_bert), str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert told.splitlines() == [
        "set() True torch.compiler torch._dynamo",
        "torch.Size([2]) tensor([0., 0.])",
        "torch._dynamo._trace_wrapped_higher_order_op",
    ]
