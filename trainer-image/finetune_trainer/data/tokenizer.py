"""A tokenizer read from its own files: `tokenizer.json` and the special tokens beside it.

The `tokenizers` library alone starts in a tenth of a second, where transformers' AutoTokenizer takes several; a test
compares the ids of both. Other forms (GGUF, a vocabulary without tokenizer.json) are converted by
AutoTokenizer once.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.errors import ConfigError, ModelNotFound

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

    from finetune_trainer.data.media import Decoder

_UNLIMITED = 10**6
_CONFIG, _SPECIAL, _TEMPLATE = "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"
_MODEL = "config.json"
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
"""What a tokenizer may consist of."""


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids, with the special tokens' names and the chat template of the model."""

    backend: "Backend"
    special: Mapping[str, str]
    chat_template: str | None
    model_max_length: int | None
    decoder_start_id: int | None = None
    """What the decoder of an encoder-decoder model begins with; None for other models."""
    source: Path = Path()
    """The model's folder."""
    gguf_file: str | None = None
    """The file in it that the tokenizer is taken from, when it is one."""

    @property
    def decoders(self) -> "Mapping[str, Decoder]":
        """Text needs none."""
        return {}

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what decides the ids."""
        whole = hashlib.sha256(self.backend.to_str().encode()).hexdigest()
        return {"tokenizer": whole, "template": self.chat_template}

    def save(self, folder: Path) -> None:
        """Write the model's own files, or what transformers converts them to."""
        if self.gguf_file is None and (self.source / "tokenizer.json").exists():
            copy_files(self.source, folder, FILES)
            return
        from transformers import AutoTokenizer  # noqa: PLC0415

        converted: Any = AutoTokenizer.from_pretrained(
            str(self.source), gguf_file=self.gguf_file, local_files_only=True
        )
        converted.save_pretrained(str(folder))

    def id_of(self, name: str) -> int | None:
        """Return the id of `eos_token`, `pad_token`, `mask_token`, ...; None when the model has none."""
        token = self.special.get(name)
        return None if token is None else self.backend.token_to_id(token)

    @property
    def pad_id(self) -> int:
        """Id to fill with; it is masked out, so any id would do."""
        found = self.id_of("pad_token")
        return found if found is not None else self.id_of("eos_token") or 0

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no part of a text."""
        ids = (self.backend.token_to_id(token) for token in self.special.values())
        return frozenset(i for i in ids if i is not None)

    def encode(self, texts: Sequence[str] | Sequence[tuple[str, str]], max_length: int | None) -> "list[Encoding]":
        """Tokenise texts or pairs of texts with the model's special tokens, cut to `max_length`."""
        if max_length is None:
            self.backend.no_truncation()
        else:
            self.backend.enable_truncation(max_length)
        return self.backend.encode_batch_fast(list(texts))

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts as they stand, without adding special tokens."""
        self.backend.no_truncation()
        return [each.ids for each in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_words(self, rows: Sequence[Sequence[str]], max_length: int) -> "list[Encoding]":
        """Tokenise texts that are cut into words already; the encodings know each token's word."""
        self.backend.enable_truncation(max_length)
        return self.backend.encode_batch([list(row) for row in rows], is_pretokenized=True)

    def encode_windows(self, pairs: Sequence[tuple[str, str]], max_length: int, overlap: int) -> "list[list[Encoding]]":
        """Tokenise pairs whose second text is long.

        Args:
            pairs: A short text and a long one.
            max_length: Longest window in tokens.
            overlap: Tokens of the long text that two windows share.

        Returns:
            For each pair its windows, each with the whole first text; the encodings know each token's characters.
        """
        self.backend.enable_truncation(max_length, stride=overlap, strategy="only_second")
        return [[each, *each.overflowing] for each in self.backend.encode_batch(list(pairs))]

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Return the text of ids, with or without special tokens."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=not special)

    def render_chat(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False) -> str:
        """Render messages by the model's own chat template.

        Args:
            messages: Objects with role and content.
            add_generation_prompt: End with the beginning of an assistant's turn.

        Returns:
            The text.

        Raises:
            ConfigError: The model has no chat template, or the template refuses the messages.
        """
        if self.chat_template is None:
            raise ConfigError(
                "the model has no chat template, but the data holds messages",
                remedy="Use a chat model, or rows with prompt and completion.",
            )
        from jinja2 import TemplateError  # noqa: PLC0415 - only chats need it

        try:
            return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **self.special)
        except TemplateError as error:
            raise ConfigError(
                f"the model's chat template refuses the messages ({error})",
                remedy="Order the roles as the model expects them.",
            ) from error

    @cached_property
    def _template(self) -> Any:
        from jinja2 import TemplateError  # noqa: PLC0415
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

        def raise_exception(message: str) -> None:
            raise TemplateError(message)

        # The settings of transformers' apply_chat_template, which templates are written against.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        helpers: dict[str, Any] = {"raise_exception": raise_exception}
        environment.globals.update(helpers)
        environment.filters["tojson"] = _to_json
        return environment.from_string(self.chat_template or "")


def load_tokenizer(folder: Path, gguf_file: str | None = None) -> Tokenizer:
    """Read the tokenizer of a model.

    Args:
        folder: Folder of the model's files.
        gguf_file: Name of the GGUF file in it, when the model is one.

    Returns:
        The tokenizer.

    Raises:
        ModelNotFound: There is none, or it is damaged.
    """
    file = folder / "tokenizer.json"
    if gguf_file is None and file.exists():
        from tokenizers import Tokenizer as Backend  # noqa: PLC0415

        try:
            backend = Backend.from_file(str(file))
            config = _read_json(folder / _CONFIG)
        except Exception as error:  # the library raises bare Exception
            raise ModelNotFound(f"{file}: damaged tokenizer ({error})", remedy="Copy the model again.") from error
        backend.no_padding()
        template = folder / _TEMPLATE
        return Tokenizer(
            backend,
            _special_tokens(_read_json(folder / _SPECIAL) | config),
            template.read_text(encoding="utf-8") if template.exists() else _template_of(config),
            _limit(config.get("model_max_length")),
            _read_json(folder / _MODEL).get("decoder_start_token_id"),
            folder,
        )
    return _converted(folder, gguf_file)


def _converted(folder: Path, gguf_file: str | None) -> Tokenizer:
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds that most models do not need

    try:
        found: Any = AutoTokenizer.from_pretrained(str(folder), gguf_file=gguf_file, local_files_only=True)
        backend: Any = found.backend_tokenizer
    except Exception as error:
        raise ModelNotFound(
            f"{folder}: no usable tokenizer ({error})", remedy="Add tokenizer.json to the model."
        ) from error
    special = {name: str(token) for name, token in found.special_tokens_map.items() if isinstance(token, str)}
    start = _read_json(folder / _MODEL).get("decoder_start_token_id")
    return Tokenizer(backend, special, found.chat_template, _limit(found.model_max_length), start, folder, gguf_file)


def copy_files(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy those files that are there."""
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    special: dict[str, str] = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(text, str):
            special[name] = text
    return special


def _template_of(config: Mapping[str, Any]) -> str | None:
    found = config.get("chat_template")
    if isinstance(found, list):
        return next((each["template"] for each in found if each.get("name") == "default"), None)
    return found


def _limit(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 < value < _UNLIMITED else None
