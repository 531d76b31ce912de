"""How a run ended: the termination message of the pod and the result file of the work folder."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field

from finetune_api.base import Contract
from finetune_api.exit_codes import Reason, exit_code, retryable
from finetune_api.names import TERMINATION_MESSAGE_BYTES

_CUT = "..."


def _as_utf8(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _as_reason(value: object) -> object:
    return Reason(value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_as_utf8)]


class ArtifactRef(Contract):
    """The artifact that was handed over, loaded back and compared."""

    uri: Text
    """Where it is."""
    digest: Text
    """sha256 of its manifest.json, which lists the sha256 of every file."""
    formats: list[Text] = Field(default_factory=list[Text])
    """The forms in it: adapter, merged or full."""


class CheckpointRef(Contract):
    """The newest state that can be continued from."""

    step: Annotated[int, Field(ge=0)]
    """Optimiser steps done."""
    path: Text
    """Where it is, relative to the work folder."""


class Failure(Contract):
    """Why the run stopped."""

    reason: Annotated[Reason, BeforeValidator(_as_reason)]
    """One of the closed list in exit_codes."""
    message: Text
    """What happened, with the place and the value found."""
    remedy: Text = ""
    """What to do about it."""
    rank: Annotated[int, Field(ge=0)] | None = None
    """The process that failed first, when known."""
    exit_code: Annotated[int, Field(ge=0, le=255)]
    """The exit code that carries the reason."""
    retryable: bool
    """Whether a new attempt may follow."""

    @classmethod
    def of(cls, reason: Reason, message: str, remedy: str = "", rank: int | None = None) -> Self:
        """Return a failure with the exit code and the retry rule that belong to its reason."""
        return cls(
            reason=reason,
            message=message,
            remedy=remedy,
            rank=rank,
            exit_code=exit_code(reason),
            retryable=retryable(reason),
        )


class Result(Contract):
    """How a run ended."""

    outcome: Literal["Complete", "Failed", "Interrupted"]
    """Interrupted: asked to stop, and can be continued from the checkpoint."""
    step: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps done."""
    max_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps planned; 0 when the run stopped before it knew."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """The last evaluation of each split, `split/name` or `name`."""
    artifact: ArtifactRef | None = None
    """What was handed over; Complete only."""
    report: Text | None = None
    """Address of the evaluation's report: beside the artifact, or in the work folder when the gate failed."""
    failure: Failure | None = None
    """Why the run stopped; Failed only."""
    checkpoint: CheckpointRef | None = None
    """The newest state that can be continued from."""
    resumed_from: Annotated[int, Field(ge=0)] | None = None
    """Step of the checkpoint that this run started from; absent when it began at step 0."""

    def to_json(self, max_bytes: int = TERMINATION_MESSAGE_BYTES) -> str:
        """Return the result as one line of JSON that fits.

        What does not fit is cut in this order: report, message, remedy, metrics from the last name on, paths. A cut
        text ends in `...`.

        Args:
            max_bytes: Most UTF-8 bytes; 512 always suffice.

        Returns:
            The JSON text.

        Raises:
            ValueError: Not even the outcome fits.
        """
        value = self.to_dict()
        if _bytes(value) > max_bytes:
            value.pop("report", None)
        for section, key in (("failure", "message"), ("failure", "remedy")):
            _cut_text(value, section, key, max_bytes)
        metrics: dict[str, float] = value.get("metrics", {})
        while metrics and _bytes(value) > max_bytes:
            metrics.popitem()
        for section, key in (("checkpoint", "path"), ("artifact", "uri"), ("artifact", "digest")):
            _cut_text(value, section, key, max_bytes)
        if _bytes(value) > max_bytes:
            value.get("artifact", {}).pop("formats", None)
        if _bytes(value) > max_bytes:
            raise ValueError(f"a result needs {_bytes(value)} bytes, found a limit of {max_bytes}; allow 512 or more")
        return _text(value)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a result."""
        return cls.model_validate_json(text)


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _bytes(value: dict[str, Any]) -> int:
    return len(_text(value).encode())


def _cut_text(value: dict[str, Any], section: str, key: str, max_bytes: int) -> None:
    """Shorten one text in place to the longest beginning with which the whole fits, or to the mark alone."""
    if section not in value or key not in value[section] or _bytes(value) <= max_bytes:
        return
    whole: str = value[section][key]
    if len(whole) <= len(_CUT):
        return
    low, high = 0, len(whole) - len(_CUT)
    while low < high:
        middle = (low + high + 1) // 2
        value[section][key] = whole[:middle] + _CUT
        low, high = (middle, high) if _bytes(value) <= max_bytes else (low, middle - 1)
    value[section][key] = whole[:low] + _CUT
