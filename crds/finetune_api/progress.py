"""What the trainer reports while it works: one JSON object per line."""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator

from finetune_api.base import Contract

EventKind = Literal["decision", "progress", "evaluation", "checkpoint", "warning", "phase"]


class ProgressEvent(Contract):
    """One event.

    `data` by kind: progress {step, maxSteps, epoch, percent, loss, samplesPerSecond, tokensPerSecond, learningRate,
    gradientNorm, etaSeconds}; evaluation {step, split, metrics: {name: number}}; checkpoint {step, path}; decision
    {name, value, reason}.
    """

    kind: EventKind
    """What it is about."""
    at: Annotated[
        str, Field(max_length=40, pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:Z|[+-]\d{2}:\d{2})$")
    ]
    """When, RFC 3339."""
    message: str = ""
    """One line for people."""
    data: dict[str, JsonValue] = Field(default_factory=dict)
    """The same for programs."""

    @field_validator("message", mode="before")
    @classmethod
    def _only_text_that_utf8_can_carry(cls, value: object) -> object:
        return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value

    def to_json(self) -> str:
        """Return one line without a line end; a number that is not finite becomes null."""
        return self.model_dump_json(by_alias=True, ensure_ascii=True)

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """Read one line."""
        return cls.model_validate_json(line)
