"""What is minimised beside, or in place of, the task's own loss."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Contract
from finetune_api.spec.model_data import DataSource, UriText

DEFAULT_TEMPERATURE = 2.0


class Distillation(Contract):
    """Learn from a larger model's scores beside the labels (Hinton et al. 2015)."""

    teacher: UriText
    """Address of the model to learn from, as in model.uri: a folder in safetensors with a head for this very task and
    the same tokenizer (or image settings), such as the artifact of an earlier run with formats full or merged. It is
    frozen, without dropout, and runs once in every pass: memory for its weights, and its forward time."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of the loss that is the teacher's; the rest is the labels'. At 1 the labels do not count."""
    temperature: Annotated[float, Field(ge=1, le=100)] | None = None
    """Both models' scores are divided by this, and the teacher's part is multiplied by its square; 2 when absent. Not
    for text-regression, whose numbers are compared by their squared difference."""


class Adversarial(Contract):
    """Learn rows whose input (embedded tokens, pixels or samples) is moved to where it hurts most."""

    type: Literal["fgm", "pgd", "freelb", "smart"]
    """`fgm`: one step along the gradient of the loss (Miyato et al. 2017). `pgd`: several steps from a random start,
    back to the radius after each (Madry et al. 2018). `freelb`: as pgd, and every step teaches, by the mean of their
    losses (Zhu et al. 2020). `smart`: the row itself is learned, and beside it that its scores change little where they
    change most, symmetric divergence; labels are not attacked (Jiang et al. 2020, after VAT)."""
    radius: Annotated[float, Field(gt=0, le=1000000)] = 0.1
    """How far a row is moved: the Euclidean norm over all of its numbers together. The embedding of a token is about
    1 long in most language models, and a row moved as far as that may teach nothing; pixels and samples are
    normalised, so an image needs more than a sentence."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of the rows that are attacked in an epoch, others in each; the rest is learned as it is (Kurakin et al.
    2017). With the half of them an fgm step takes about a third more time than a plain one when all weights are
    trained, with all of them two thirds."""
    steps: Annotated[int, Field(ge=1, le=32)] | None = None
    """Steps of the search, each of length 2.5*radius/steps, and each about one more pass over the attacked rows; when
    absent 3 for pgd, 2 for freelb, which keeps the activations of all of them, and 1 for smart. Not for fgm."""
    weight: Annotated[float, Field(gt=0, le=1000)] | None = None
    """What multiplies the divergence; 1 when absent. smart only."""


class Consolidation(Contract):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): hold a weight the more, the more earlier rows need it."""

    data: DataSource
    """Rows that the model learned before, of the same task, with the same columns and among the labels of the training
    rows."""
    rows: Annotated[int, Field(ge=1, le=1000000)] = 256
    """How many of them are looked at, drawn by training.seed: each costs a forward and a backward pass of its own, at
    every start."""
    strength: Annotated[float, Field(gt=0, le=1000000000000)]
    """Half of this times the squared distance, each weight's times the mean square of its gradient over these rows, is
    added to what is minimised, though not to the reported loss. Its authors use about 100 to 10000."""


class Replay(Contract):
    """Learn some rows of an earlier dataset again among the new ones, so that they are not forgotten."""

    data: DataSource
    """Rows of the same task, with the same columns."""
    rows: Annotated[int, Field(ge=1, le=1000000000)] = 1000
    """How many of them are added to the training rows, drawn by training.seed: the same ones in every epoch. A set that
    has fewer is added whole. They are never held out."""
