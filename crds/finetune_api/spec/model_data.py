"""Where the model and the data come from."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from finetune_api.base import Contract
from finetune_api.uri import MAX_URI_LENGTH, parse_uri, uri_pattern

Format = Literal["auto", "jsonl", "csv", "parquet", "text", "conll", "folder", "coco"]


def _checked(text: str) -> str:
    parse_uri(text)
    return text


UriText = Annotated[
    str,
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "maxLength": MAX_URI_LENGTH, "pattern": uri_pattern()}),
]


class Model(Contract):
    """The model that training starts from."""

    uri: UriText
    """Address of a model folder in safetensors, or of one GGUF file. `hf://org/name@commit` is pinned to the commit;
    a branch or no revision is resolved once and recorded. `package://import_name` is a folder inside an installed
    Python package, found by its config.json. `file://` works on this machine only. Pickled weights and code that
    comes with a model are refused."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`pretrained` loads the weights; `random` takes the architecture and the tokenizer alone and trains from
    nothing, which needs method.type full."""


class DataSource(Contract):
    """One set of rows."""

    uri: UriText
    """Address of a file, or of a folder whose files are read in the order of their names. Images and sounds are named
    by paths that start at the file's folder, or stand as bytes in parquet. A folder of nothing but images or sounds has
    one row for each; the subfolder that it is in is its label, but files of one name in subfolders called images and
    masks belong together."""
    format: Format = "auto"
    """How the rows are stored; `auto` decides by the file's ending. conll: a word and its tag a line, the tag last, an
    empty line after each sentence; for token-classification. folder: images or sounds in subfolders. coco: annotations
    of objects in images as COCO has them, the ending .json; the images lie beside the file, or, when its folder is
    called annotations, beside that."""


class HeldOut(Contract):
    """Rows that are never trained on: an address, or a part of the training rows."""

    uri: UriText | None = None
    """Address of the rows; excludes fraction."""
    fraction: Annotated[float, Field(gt=0, le=0.5)] | None = None
    """Part of the training rows to hold out, at most 0.5; stratified by label and drawn with training.seed, so every
    run and every number of workers holds out the same rows. Excludes uri."""
    format: Format = "auto"
    """How the rows at uri are stored; `auto` decides by the file's ending."""


class Data(Contract):
    """The rows, and which column plays which role."""

    train: DataSource
    """Rows to learn from."""
    validation: HeldOut | None = None
    """Rows for evaluation while training and for early stopping."""
    test: HeldOut | None = None
    """Rows for the numbers in the result; looked at once, after training."""
    fields: Annotated[
        dict[Annotated[str, Field(max_length=63)], Annotated[str, Field(min_length=1, max_length=253)]],
        Field(max_length=16),
    ] = Field(default_factory=dict)
    """The task's roles (text, label, prompt, completion, messages, ...) mapped to column names. Roles that are not
    named are detected from the columns."""
    shots: Annotated[int, Field(ge=1, le=1000000)] | None = None
    """Learn from this many training rows of each label, or, of tasks without one label a row, from this many in all;
    drawn with training.seed after rows were held out. All rows when absent."""
    max_length: Annotated[int, Field(ge=8, le=131072)] | None = None
    """Longest row in tokens, or in the frames that a model makes of a sound; longer ones are cut, but sounds whose text
    is learned are refused, since their text would be longer too. When absent, the model's own limit, lowered to what
    the data needs."""
