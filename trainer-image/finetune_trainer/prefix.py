"""The lowest blocks of a model when they are frozen: a pass can begin behind them, with what they gave before.

Legend: B rows of a pass, T tokens, H hidden size.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.data.sampler import Rows
from finetune_trainer.data.table import TokenTable

STATES = "frozen_states"
"""The column of a table, and the tensor of a batch, that holds what the last frozen block gives."""
_BLOCKS = "frozen_blocks"


class _ReachedError(Exception):
    """The states are there; the rest of the pass is not needed."""


def mark_frozen(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Remember which blocks, from the input on, a pass may leave out."""
    setattr(model, _BLOCKS, tuple(blocks))


@contextmanager
def behind_frozen(model: nn.Module, states: Tensor | None) -> Generator[None]:
    """Leave out the frozen blocks inside this context; `states` [B, T, H] stands for the last one's, None for none."""
    if states is None:
        yield
        return
    *before, last = getattr(model, _BLOCKS)
    with ExitStack() as stack:
        for block in before:
            stack.enter_context(_replaced(block, _unchanged))
        stack.enter_context(_replaced(last, lambda *_, **__: states))
        yield


def frozen_states(model: nn.Module, forward: Callable[[], object]) -> Tensor | None:
    """Return what the last frozen block gives in a pass, [B, T, H] or [B, 1, H]; what follows it is not computed.

    Args:
        model: A model that `mark_frozen` saw.
        forward: Runs the pass.

    Returns:
        The states in float32, or None when the block gives something else than one tensor.
    """
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.append(output.float())
            raise _ReachedError

    hook = getattr(model, _BLOCKS)[-1].register_forward_hook(keep)
    try:
        forward()
    except _ReachedError:
        pass
    finally:
        hook.remove()
    return found[0] if found else None


def collate_states(table: TokenTable, rows: Rows) -> Tensor | None:
    """Return the states of rows, [B, T, H] with zeros as padding or [B, 1, H]; None when the table has none."""
    if STATES in table.dense:
        return torch.from_numpy(table.dense[STATES][rows])[:, None]
    if STATES not in table.ragged:
        return None
    parts = [table.row(STATES, int(row)) for row in rows]
    out = torch.zeros(len(parts), max(len(part) for part in parts), parts[0].shape[1])
    for at, part in enumerate(parts):
        # A copy: the file is mapped for reading alone, and torch warns of tensors over such memory.
        out[at, : len(part)] = torch.from_numpy(part.copy())
    return out


def _unchanged(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden


@contextmanager
def _replaced(block: nn.Module, forward: Callable[..., Any]) -> Generator[None]:
    own = vars(block)
    before = own.get("forward")
    own["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before
