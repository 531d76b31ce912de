"""Compute what the frozen lowest blocks give once per row, and keep it between epochs and jobs.

A row's bits depend on the batch and the padding around it. So the states are computed in one canonical way, the passes
of `evaluate.passes` over the whole set and without dropout, whether a file is found or not: a run gives the same bits
with a file, without one, and without a place for one. What can change the bits is in the file's name.

Does not cover: tasks that mask or pack their inputs anew in every epoch, several texts per row, encoder-decoders.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from finetune_api.method_types import OWN_WEIGHTS
from finetune_api.run_config import RunConfig
from finetune_trainer.data.table import INPUT_IDS, Array, TokenTable
from finetune_trainer.errors import ConfigError, Preempted
from finetune_trainer.evaluate import EvaluationStopped, Judge
from finetune_trainer.methods.layers import blocks_of, depths
from finetune_trainer.prefix import STATES, frozen_states, mark_frozen
from finetune_trainer.runtime import Decision, available_memory_bytes
from finetune_trainer.tasks.base import Batch, Encoded, Predictions, objects
from finetune_trainer.tasks.text_encoder import pooled_logits

_LARGEST_BYTES = 16 * 2**30
_SHARE = 4
_ROUNDING, _ROUNDING_BF16 = 1e-3, 5e-2
_VERSION = 1
_DECIDED = "frozenBlocks"
_NOT_THE_BLOCKS = frozenset({"id2label", "label2id", "problem_type", "_name_or_path"})


def begin_behind_frozen(
    config: RunConfig, judge: Judge, model: nn.Module, sets: Mapping[str, Encoded], decided: dict[str, str]
) -> tuple[Mapping[str, Encoded], list[Decision]]:
    """Compute the frozen lowest blocks once for every row, when there are some and it is worth it.

    Args:
        config: The run.
        judge: Computes the states, every process a share.
        model: With the trained parameters marked.
        sets: The rows of each set.
        decided: What was decided before; the number of blocks is added.

    Returns:
        The sets, with the states where there are any, and what was decided.
    """
    choice = _choose(config, judge, model, sets, decided.get(_DECIDED))
    decided[_DECIDED] = choice.value
    if choice.value == "0":
        return sets, [choice]
    numbers = f"{decided['precision']} {decided['threads']}"
    store = Store(Path(config.paths.cache) / "states")
    mark_frozen(model, blocks_of(model)[: int(choice.value)])
    frozen = Frozen(judge, model, int(choice.value), store, numbers)
    if not frozen.give_one_tensor(sets["train"].table):
        decided[_DECIDED] = "0"
        return sets, [Decision(_DECIDED, "0", "the blocks of this architecture hand on more than one tensor")]
    found, origin = frozen.add_states(sets)
    return found, [choice, origin]


def _choose(
    config: RunConfig, judge: Judge, model: nn.Module, sets: Mapping[str, Encoded], kept: str | None
) -> Decision:
    if kept is not None:
        return Decision(_DECIDED, kept, "kept from the checkpoint")
    kind = config.spec.method.type
    if kind not in OWN_WEIGHTS:
        # What a method adds may act before the blocks wherever its parameters stand.
        return Decision(_DECIDED, "0", f"method.type {kind} adds weights of its own")
    blocks = _frozen(model)
    if blocks == 0:
        return Decision(_DECIDED, "0", "a weight of the first block, or of what stands before it, is trained")
    if judge.task.head.kind != "sequence-classification":
        return Decision(_DECIDED, "0", f"not for {judge.task.name}, whose passes do not repeat row by row")
    if config.spec.training.embedding_noise is not None:
        return Decision(_DECIDED, "0", "training.embeddingNoise changes their input in every step")
    if config.spec.training.adversarial is not None:
        return Decision(_DECIDED, "0", "training.adversarial moves their input")
    need = sum(_bytes(model, each.table) for each in sets.values())
    room = judge.group.gather(min(_LARGEST_BYTES, available_memory_bytes() // _SHARE))[0]
    told = f"{need / 2**20:.0f} MiB of states at most"
    if need > room:
        return Decision(_DECIDED, "0", f"{told}, and {room / 2**20:.0f} MiB for them")
    return Decision(_DECIDED, str(blocks), f"frozen: computed once per row, without dropout; {told}")


@dataclass(frozen=True, slots=True)
class Frozen:
    """The frozen blocks of one run."""

    judge: Judge
    model: nn.Module
    blocks: int
    store: "Store"
    numbers: str
    """What else decides the bits: number format and threads."""

    def give_one_tensor(self, table: TokenTable) -> bool:
        """Tell, from one row, whether the last block hands on one tensor."""
        batch = self.judge.task.collate(table, np.zeros(1, dtype=np.int64), None).to(self.judge.group.device)
        with torch.no_grad(), self.judge.autocast():
            return frozen_states(self.model, lambda: pooled_logits(self.model, batch)) is not None

    def add_states(self, sets: Mapping[str, Encoded]) -> tuple[Mapping[str, Encoded], Decision]:
        """Add the states of the last frozen block to every set.

        Args:
            sets: The rows of each set.

        Returns:
            The sets, and where the states came from.

        Raises:
            ConfigError: The model does not give the same scores from them.
            Preempted: A process was asked to stop.
        """  # noqa: DOC502
        weights = self._weights()
        found: dict[str, Encoded] = {}
        computed = 0
        for name, each in sets.items():
            digest = hashlib.sha256(f"{weights} {_rows_digest(each.table)}".encode()).hexdigest()
            states = self.store.read(digest)
            if not all(self.judge.group.gather(states is not None)):
                states = self._compute(each.table)
                computed += len(each.table)
                if self.judge.group.is_main:
                    self.store.write(digest, states)
            assert states is not None, "internal: every process has the states"
            found[name] = replace(each, table=_with_states(each.table, states))
        difference = self._difference(sets["train"].table, found["train"].table)
        rows = sum(len(each.table) for each in sets.values())
        told = f"{rows - computed} of {rows} rows found in the cache; scores of two rows differ by {difference:.0e}"
        return found, Decision("frozenStates", f"{computed} computed", told)

    def _compute(self, table: TokenTable) -> Array:
        lengths = table.lengths

        def states(model: nn.Module, batch: Batch) -> Predictions:
            found = frozen_states(model, lambda: pooled_logits(model, batch))
            assert found is not None, "internal: the block gave one tensor before"
            parts = zip(found.cpu().numpy(), batch.rows, strict=True)
            return {STATES: objects([part[: lengths[row]] for part, row in parts])}

        try:
            return np.concatenate(list(self.judge.every(self.model, table, states)[STATES]))
        except EvaluationStopped as error:
            raise Preempted("asked to stop before the first step", remedy="Run the same command again.") from error

    def _difference(self, plain: TokenTable, states: TokenTable) -> float:
        """Compare the scores of two rows with and without the blocks."""
        rows = np.unique(np.array([0, len(plain) - 1], dtype=np.int64))
        was_training = self.model.training
        self.model.eval()
        device = self.judge.group.device
        with torch.no_grad(), self.judge.autocast():
            batches = [self.judge.task.collate(table, rows, None).to(device) for table in (plain, states)]
            one, other = (pooled_logits(self.model, batch).float() for batch in batches)
            tolerance = _ROUNDING_BF16 if torch.is_autocast_enabled(device.type) else _ROUNDING
        self.model.train(was_training)
        difference = float((one - other).norm() / one.norm().clamp_min(1e-12))
        if difference > tolerance:
            raise ConfigError(
                f"the model gives other scores from what its frozen blocks gave before ({difference:.1e})",
                remedy="Choose another method.type; this architecture passes more than one tensor between its blocks.",
            )
        return difference

    def _weights(self) -> str:
        """Digest everything but the rows that decides the states: weights, architecture, number format, machine."""
        config: Any = self.model.config
        plain = {name: value for name, value in config.to_dict().items() if name not in _NOT_THE_BLOCKS}
        digest = hashlib.sha256(f"{_VERSION} {plain} {type(self.model).__name__} {self.blocks} {self.numbers}".encode())
        machine = f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {self.judge.group.device.type}"
        digest.update(machine.encode())
        depth, _ = depths(self.model)
        for name, each in self.model.named_parameters():
            if depth[name] <= self.blocks:
                digest.update(name.encode())
                digest.update(each.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Store:
    """States by digest in a folder, one file each, written aside and renamed; the least recently used go first."""

    folder: Path

    def read(self, digest: str) -> Array | None:
        """Return the states, memory-mapped, or None when they are not there or damaged."""
        place = self.folder / f"{digest}.npy"
        try:
            # Copy on write: torch wants memory that could be written.
            states = np.load(place, mmap_mode="c")
            os.utime(place)
        except (OSError, ValueError, EOFError):
            return None
        return states

    def write(self, digest: str, states: Array) -> None:
        """Keep states, unless they do not fit beside what is used elsewhere."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._make_room(states.nbytes):
            return
        aside = self.folder / f".{digest}.{uuid.uuid4().hex}"
        try:
            with aside.open("wb") as file:
                np.save(file, states)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self.folder / f"{digest}.npy")
        except OSError:  # a full disk: the run goes on with what is in memory
            aside.unlink(missing_ok=True)

    def _make_room(self, wanted: int) -> bool:
        files = sorted(self.folder.glob("*.npy"), key=lambda file: file.stat().st_mtime)
        used = sum(file.stat().st_size for file in files)
        budget = min(_LARGEST_BYTES, (shutil.disk_usage(self.folder).free + used) // _SHARE)
        if wanted > budget:
            return False
        for file in files:
            if used + wanted <= budget:
                break
            used -= file.stat().st_size
            file.unlink(missing_ok=True)
        return True


def _frozen(model: nn.Module) -> int:
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        return 0
    try:
        depth, count = depths(model)
    except ConfigError:
        return 0
    trained = [depth[name] for name, each in model.named_parameters() if each.requires_grad]
    return max(0, min(count, min(trained, default=0) - 1))


def _bytes(model: nn.Module, table: TokenTable) -> int:
    config: Any = model.config
    return 4 * int(config.hidden_size) * int(table.lengths.sum())


def _rows_digest(table: TokenTable) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(table.offsets).data)
    for name in sorted(table.ragged):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(table.ragged[name]).data)
    return digest.hexdigest()


def _with_states(table: TokenTable, states: Array) -> TokenTable:
    """Add states as a column: by token, or by row when the head reads one token of each."""
    if len(states) == len(table.ragged[INPUT_IDS]):
        return replace(table, ragged={**table.ragged, STATES: states})
    return replace(table, dense={**table.dense, STATES: states})
