"""The FineTuneJob itself."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.base import Contract, DnsName, Unique
from finetune_api.spec.cluster import Restarts, Scheduling, Secrets, Storage, Workers
from finetune_api.spec.model_data import Data, Model
from finetune_api.spec.pod import Pod
from finetune_api.spec.training import Checkpoint, Evaluation, Method, Output, Tracker, Training

Task = Literal[
    "text-classification",
    "text-regression",
    "token-classification",
    "question-answering",
    "multiple-choice",
    "embedding",
    "translation",
    "summarization",
    "causal-lm",
    "preference",
    "masked-lm",
    "next-sentence-prediction",
    "recommendation",
    "image-classification",
    "object-detection",
    "semantic-segmentation",
    "speech-recognition",
    "audio-classification",
    "image-text",
    "multimodal-classification",
    "image-captioning",
    "visual-question-answering",
]


class FineTuneJobSpec(Contract):
    """One fine-tuning: a task, a model, the data, and how far to go."""

    task: Task
    """What the model learns. text-classification: a label, several labels, or a label of a pair of texts;
    text-regression: a number; token-classification: a tag for each word, such as names of persons and places;
    question-answering: the span of a context that answers a question; multiple-choice: the right one of several
    choices; embedding: vectors that are close for texts that belong together, or as close as their score says;
    translation and summarization: a text from a text, by a model with an encoder and a decoder; causal-lm: the next
    token of plain text, of completions or of an assistant's turns; preference: the better of two completions (DPO);
    masked-lm: hidden tokens; next-sentence-prediction: hidden tokens, and whether a text continues another, from
    documents; recommendation: the next item of a history, trained from nothing; image-classification: a
    label of an image; object-detection: boxes of things in an image and what they are, by a model of the DETR family;
    semantic-segmentation: a class for every pixel;
    speech-recognition: what is said in a sound, by letters (CTC) or by a decoder (Whisper); audio-classification: a
    label of a sound; image-text: vectors of images and texts that are close where they belong together (CLIP);
    multimodal-classification: a label of a text, an image, a sound, or any of them together;
    image-captioning: a text that says what an image shows; visual-question-answering: the answer to a question about an
    image."""
    model: Model
    """The model that training starts from."""
    data: Data
    """The rows, and which column plays which role."""
    method: Method = Field(default_factory=Method)
    """Which weights are trained."""
    training: Training = Field(default_factory=Training)
    """The optimisation."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """When and by what the model is judged."""
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    """How much work a stop can cost."""
    output: Output = Field(default_factory=Output)
    """Where the artifact goes and in which forms."""
    tracking: Annotated[list[Tracker], Unique, Field(max_length=3)] = Field(default_factory=list[Tracker])
    """Where the training curves go besides the job's own events; each needs its optional package."""
    workers: Workers = Field(default_factory=Workers)
    """The processes that train together."""
    scheduling: Scheduling = Field(default_factory=Scheduling)
    """On which machines, and in which queue, the pods wait."""
    storage: Storage = Field(default_factory=Storage)
    """The work volume: checkpoints and caches."""
    secrets: Secrets = Field(default_factory=Secrets)
    """Names of the Secrets that the addresses need."""
    restarts: Restarts = Field(default_factory=Restarts)
    """How often a stop that is not the user's to fix is followed by a new attempt."""
    suspend: bool = False
    """Stop after a checkpoint and free the machines; false continues from there."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=315360000)] | None = None
    """Seconds of running, all attempts together, before the job is Failed with DeadlineExceeded; no limit when
    absent. May be raised while the job runs."""
    pending_deadline_seconds: Annotated[int, Field(ge=10, le=31536000)] = 600
    """Seconds that admitted pods may wait for a machine, and workers for each other."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=315360000)] | None = None
    """Seconds after the end until the FineTuneJob and all that belongs to it is deleted; never when absent."""
    pod: Pod = Field(default_factory=Pod)
    """Overrides for the trainer's pods."""


class Metadata(Contract):
    """The part of Kubernetes' ObjectMeta that is used here; the rest is accepted and left alone."""

    model_config = ConfigDict(extra="ignore")

    name: DnsName
    """Name of the job, unique in its namespace."""
    namespace: Annotated[str, Field(max_length=63)] = "default"
    """Namespace of the job."""
    uid: Annotated[str, Field(max_length=63)] = ""
    """Given by the API server; empty for a run on this machine."""
    labels: Annotated[dict[str, str], Field(max_length=256)] = Field(default_factory=dict)
    """Labels of the job."""
    annotations: Annotated[dict[str, str], Field(max_length=256)] = Field(default_factory=dict)
    """Annotations of the job."""


class FineTuneJob(Contract):
    """A fine-tuning job: the manifest that runs on this machine and on a cluster alike."""

    api_version: Literal["finetune.dev/v1alpha1"]
    """finetune.dev/v1alpha1"""
    kind: Literal["FineTuneJob"]
    """FineTuneJob"""
    metadata: Metadata
    """Name and labels."""
    spec: FineTuneJobSpec
    """What is wanted."""
