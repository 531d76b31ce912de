"""From a run configuration to everything that training needs, in the order in which mistakes are cheapest to find.

Data first, then the tokenizer or processor, then the token tables, then the model. `run` trains what this returns;
`plan` and `data` show it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api.run_config import RunConfig
from finetune_api.spec import Consolidation, FineTuneJobSpec, Replay
from finetune_trainer.checkpoint import sha256_of
from finetune_trainer.data.formats import files_of, read_rows
from finetune_trainer.data.looking import digest_of, keep, look
from finetune_trainer.data.media import MediaColumn, Workers
from finetune_trainer.data.processor import Processor
from finetune_trainer.data.schema import Example, to_examples
from finetune_trainer.data.split import Splits, load_splits
from finetune_trainer.data.table import TokenTable, cached
from finetune_trainer.errors import ConfigError, DataError, ModelNotFound
from finetune_trainer.runtime import Decision, cpu_quota
from finetune_trainer.sources import ModelFiles, Places, locate_data, locate_model, places_of
from finetune_trainer.tasks import TASKS, build_task, load_processor
from finetune_trainer.tasks.base import Encoded, Refused, Task
from finetune_trainer.tasks.labels import check_labels

_REFUSED_SHARE = 0.05
_SHOWN = 5
_DEFAULT_LENGTH = 2048
_EWC_STREAM, _REPLAY_STREAM = 3, 4


@dataclass(frozen=True, slots=True)
class Prepared:
    """Data and processor of a run, ready for the model."""

    splits: Splits
    files: ModelFiles
    processor: Processor
    task: Task
    encoded: Mapping[str, Encoded]
    digests: Mapping[str, str]
    max_length: int
    decisions: tuple[Decision, ...]
    earlier: Encoded | None = None
    """Rows that the model learned before, for consolidation."""


def prepare_data(config: RunConfig) -> Prepared:
    """Read, check and tokenise the data.

    Args:
        config: The run.

    Returns:
        The data; sets without rows are left out of `encoded`.

    Raises:
        ConfigError: The manifest asks for something that the model or the data does not have.
        DataError: A row or set cannot be used.
        ModelNotFound: There is no such model.
    """  # noqa: DOC502
    spec = config.spec
    places = places_of(config)
    reader = TASKS[spec.task].read
    splits = load_splits(spec.data, reader, spec.training.seed, lambda uri: locate_data(uri, places), places.cache)
    splits, replay_digest = _replayed(spec, splits, places)
    files = locate_model(spec.model.uri, places)
    processor = load_processor(spec.task, files)
    workers = Workers(max(1, int(cpu_quota() / config.processes)))
    splits = _looked(splits, processor, workers, places.cache)
    task = build_task(spec, splits, processor)
    check_metrics(task, _wanted_metrics(spec))
    max_length, reason = _max_length(spec, processor, files)
    digests = _digests(spec, places, splits) | replay_digest
    key = {
        "data": {"digests": digests, "spec": spec.data.to_dict(), "seed": spec.training.seed},
        "task": {"name": task.name, **task.fingerprint()},
        "processor": processor.fingerprint(),
        "maxLength": max_length,
    }
    encoder = _Encoder(task, processor, workers, max_length, places.cache, key)
    encoded = {name: encoder.encode(name, rows) for name, rows in splits.named().items() if rows}
    earlier, earlier_digest = _consolidated(spec, places, encoder)
    return Prepared(
        splits,
        files,
        processor,
        task,
        encoded,
        {**digests, **earlier_digest},
        max_length,
        (Decision("maxLength", str(max_length), reason), *_shots(spec, splits), *_told(encoded)),
        earlier,
    )


def _drawn(
    spec: FineTuneJobSpec, earlier: Consolidation | Replay, stream: int, places: Places
) -> tuple[list[Example], str]:
    """Return rows of an earlier dataset, drawn by the seed, in file order; and the sha256 of what decides them."""
    path = locate_data(earlier.data.uri, places)
    found = to_examples(read_rows(path, earlier.data.format, places.cache), TASKS[spec.task].read, spec.data.fields)
    drawn = np.random.default_rng((spec.training.seed, stream)).permutation(len(found))[: earlier.rows]
    files = [sha256_of(file) for file, kind in files_of(path, earlier.data.format) if kind != "folder"]
    digest = hashlib.sha256(f"{earlier.rows} {' '.join(files)}".encode()).hexdigest()
    return [found[at] for at in sorted(drawn)], digest


def _replayed(spec: FineTuneJobSpec, splits: Splits, places: Places) -> tuple[Splits, dict[str, str]]:
    """Return the sets with earlier rows behind the training rows: nothing is held out of them."""
    if spec.training.replay is None:
        return splits, {}
    rows, digest = _drawn(spec, spec.training.replay, _REPLAY_STREAM, places)
    return replace(splits, train=[*splits.train, *rows]), {"replay": digest}


def _consolidated(spec: FineTuneJobSpec, places: Places, encoder: "_Encoder") -> tuple[Encoded | None, dict[str, str]]:
    """Return the rows that consolidation looks at."""
    if spec.training.ewc is None:
        return None, {}
    rows, digest = _drawn(spec, spec.training.ewc, _EWC_STREAM, places)
    check_labels(rows, encoder.task.head.config.get("id2label"), "spec.training.ewc.data")
    rows = look(rows, encoder.processor.decoders, encoder.workers, places.cache)
    key = {**encoder.key, "earlier": [digest, digest_of(rows)]}
    return replace(encoder, key=key).encode("earlier", rows), {"ewc": digest}


def _looked(splits: Splits, processor: Processor, workers: Workers, cache: Path) -> Splits:
    """Return the sets with every image and sound looked at."""
    if not processor.decoders:
        return splits
    looked = {name: look(rows, processor.decoders, workers, cache) for name, rows in splits.named().items()}
    return replace(splits, **looked)


def _wanted_metrics(spec: FineTuneJobSpec) -> list[tuple[str, str]]:
    wanted = [("spec.evaluation.metrics", name) for name in spec.evaluation.metrics]
    if spec.evaluation.gate:
        wanted.append(("spec.evaluation.gate.metric", spec.evaluation.gate.metric))
    if spec.training.early_stopping:
        wanted.append(("spec.training.earlyStopping.metric", spec.training.early_stopping.metric))
    return wanted


def check_metrics(task: Task, wanted: Sequence[tuple[str, str]]) -> None:
    """Refuse metrics that a task does not have.

    Args:
        task: The task.
        wanted: Where each is asked for, and its name.

    Raises:
        ConfigError: There is no such metric.
    """
    for path, name in wanted:
        if name not in task.metric_names:
            raise ConfigError(
                f"{path}: {task.name} has no metric {name!r}", remedy=f"Choose from {', '.join(task.metric_names)}."
            )


def check_usable(name: str, count: int, encoded: Encoded, max_length: int) -> None:
    """Refuse a set of which too much was left out.

    Args:
        name: What the set is called.
        count: Rows before encoding.
        encoded: What is left of them.
        max_length: Most tokens of a row.

    Raises:
        DataError: More than a twentieth of the rows cannot be used, or none is left.
    """
    refused = encoded.refused
    if len(refused) > _REFUSED_SHARE * count or len(encoded.table) == 0:
        shown = "; ".join(f"{each.example.place}: {each.reason}" for each in refused[:_SHOWN])
        raise DataError(
            f"{len(refused)} of {count} {name} rows cannot be used ({shown})",
            remedy=f"Correct them, or raise data.maxLength (now {max_length}).",
        )


def _max_length(spec: FineTuneJobSpec, processor: Processor, files: ModelFiles) -> tuple[int, str]:
    positions = _positions(files)
    limits = [
        limit for limit in (processor.model_max_length, positions and positions - spec.method.input_tokens) if limit
    ]
    limit = min(limits) if limits else _DEFAULT_LENGTH
    wanted = spec.data.max_length
    if wanted is None:
        return limit, "the model's own limit" if limits else "the model states no limit"
    if limits and wanted > limit:
        raise ConfigError(
            f"spec.data.maxLength: the model reads at most {limit} tokens, found {wanted}",
            remedy=f"Set it to {limit} or less.",
        )
    return wanted, "set in the manifest"


def _positions(files: ModelFiles) -> int | None:
    path = files.folder / "config.json"
    if files.gguf_file is not None or not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("max_position_embeddings")
    except (ValueError, AttributeError) as error:
        raise ModelNotFound(f"{files.uri}: config.json is damaged ({error})", remedy="Copy the model again.") from error


def _digests(spec: FineTuneJobSpec, places: Places, splits: Splits) -> dict[str, str]:
    """Return the sha256 of every set's files, with the images and sounds that its rows name.

    A held-out part has the digest of the training rows.
    """
    digests: dict[str, str] = {}
    for name in ("train", "validation", "test"):
        source = getattr(spec.data, name)
        if source is None:
            continue
        if source.uri is None:
            digests[name] = digests["train"]
            continue
        files = files_of(locate_data(source.uri, places), source.format)
        parts = [sha256_of(file) for file, found in files if found != "folder"]
        for each, examples in splits.named().items():
            held_out = name == "train" and (section := getattr(spec.data, each)) is not None and section.uri is None
            if (each == name or held_out) and any(example.media for example in examples):
                parts.append(digest_of(examples))
        digests[name] = parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()
    return digests


@dataclass(frozen=True, slots=True)
class _Encoder:
    task: Task
    processor: Processor
    workers: Workers
    max_length: int
    cache: Path
    key: Mapping[str, Any]

    def encode(self, name: str, examples: Sequence[Example]) -> Encoded:
        """Tokenise a set, or take it from the cache; too many refused rows are an error."""

        def build() -> tuple[TokenTable, Any]:
            found = self.task.encode(examples, self.processor, self.max_length)
            number = {id(example): index for index, example in enumerate(examples)}
            notes = {
                "kept": [number[id(example)] for example in found.examples],
                "refused": [[number[id(each.example)], each.reason] for each in found.refused],
                "cut": found.cut,
            }
            return found.table, notes

        table, notes = cached(self.cache, {**self.key, "split": name}, build)
        refused = [Refused(examples[index], reason) for index, reason in notes["refused"]]
        kept = [examples[index] for index in notes["kept"]]
        encoded = Encoded(table, kept, refused, notes["cut"])
        check_usable(name, len(examples), encoded, self.max_length)
        return replace(encoded, table=replace(table, media=self._media(kept)))

    def _media(self, examples: Sequence[Example]) -> dict[str, MediaColumn]:
        """Return the images and sounds of the rows; those of a small set are decoded now, damage is told now."""
        columns: dict[str, MediaColumn] = {}
        for name, decoder in self.processor.decoders.items():
            sources = [example.media.get(name) for example in examples]
            columns[name] = keep(self.cache, MediaColumn(sources, decoder, self.workers))
        return columns


def _shots(spec: FineTuneJobSpec, splits: Splits) -> list[Decision]:
    if splits.pool is None:
        return []
    told = f"{spec.data.shots} of each label, or in all, drawn with seed {spec.training.seed}"
    return [Decision("shots", f"{len(splits.train)} of {splits.pool} rows", told)]


def _told(encoded: Mapping[str, Encoded]) -> list[Decision]:
    told: list[Decision] = []
    for name, found in encoded.items():
        notes = [f"{found.table.lengths.max()} tokens the longest"]
        if found.cut:
            notes.append(f"{found.cut} cut")
        if found.refused:
            notes.append(f"{len(found.refused)} refused, {found.refused[0].example.place} first")
        told.append(Decision(f"rows.{name}", str(len(found.table)), ", ".join(notes)))
    return told
