"""The letters that a recogniser writes, one output each: the model's own, or those of the training texts.

The files are those of transformers' Wav2Vec2CTCTokenizer; a test compares ids and texts with it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from finetune_trainer.errors import ConfigError, ModelNotFound

_VOCABULARY, _CONFIG = "vocab.json", "tokenizer_config.json"
_BLANK, _UNKNOWN, _SPACE = "<pad>", "<unk>", "|"


@dataclass(frozen=True, slots=True)
class Letters:
    """Letters and their numbers; `blank` is written between letters, `space` between words."""

    numbers: Mapping[str, int]
    blank: str = _BLANK
    unknown: str = _UNKNOWN
    space: str = _SPACE

    @property
    def blank_id(self) -> int:
        """Number of what stands for no letter."""
        return self.numbers[self.blank]

    def spelled(self, text: str) -> str:
        """Return a text as these letters can write it: single spaces, and the other case where one is missing."""
        return "".join(map(self._known, " ".join(text.split())))

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's letters, the unknown one's for those that there are not."""
        unknown = self.numbers[self.unknown]
        return [self.numbers.get(self.space if each == " " else each, unknown) for each in self.spelled(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of one number per frame: repeated ones are one letter, blanks are none."""
        names = {number: name for name, number in self.numbers.items()}
        written = (names[number] for number, _ in groupby(ids) if number != self.blank_id)
        return "".join(" " if each == self.space else each for each in written).strip()

    def save(self, folder: Path) -> None:
        """Write what transformers' tokenizer reads."""
        settings = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": self.blank,
            "unk_token": self.unknown,
            "word_delimiter_token": self.space,
            "bos_token": None,
            "eos_token": None,
        }
        _write(folder / _VOCABULARY, dict(self.numbers))
        _write(folder / _CONFIG, settings)

    def _known(self, letter: str) -> str:
        return next((each for each in (letter, letter.upper(), letter.lower()) if each in self.numbers), letter)


def letters_of(texts: Iterable[str]) -> Letters:
    """Return the letters of texts, in their order in Unicode, behind blank, unknown and space."""
    found = {each for text in texts for each in text if not each.isspace()} - {_SPACE}
    return Letters({name: number for number, name in enumerate((_BLANK, _UNKNOWN, _SPACE, *sorted(found)))})


def load_letters(folder: Path) -> Letters | None:
    """Read the letters of a model.

    Args:
        folder: The model's.

    Returns:
        The letters; None when the model has none yet.

    Raises:
        ModelNotFound: The vocabulary is damaged.
        ConfigError: It is one of several languages, or lacks the blank or the space.
    """
    file = folder / _VOCABULARY
    if not file.exists():
        return None
    try:
        numbers = json.loads(file.read_text(encoding="utf-8"))
        settings = json.loads((folder / _CONFIG).read_text(encoding="utf-8")) if (folder / _CONFIG).exists() else {}
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"{file}: damaged vocabulary ({error})", remedy="Copy the model again.") from error
    names = (("pad_token", _BLANK), ("unk_token", _UNKNOWN), ("word_delimiter_token", _SPACE))
    blank, unknown, space = (_text(settings.get(name, default)) for name, default in names)
    if not all(isinstance(each, int) for each in numbers.values()):
        raise ConfigError(
            f"{file}: the vocabulary is one of several languages",
            remedy="Keep the letters of one language in vocab.json, or remove the file to take those of the data.",
        )
    missing = [each for each in (blank, unknown, space) if each not in numbers]
    if missing:
        raise ConfigError(f"{file}: the vocabulary lacks {missing[0]!r}", remedy="Correct tokenizer_config.json.")
    return Letters(numbers, blank, unknown, space)


def _text(value: Any) -> str:
    return str(value.get("content")) if isinstance(value, Mapping) else str(value)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
