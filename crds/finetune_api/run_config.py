"""What the trainer is told: the resolved job, as one canonical JSON text with a digest.

The text travels where it could be edited (an annotation, a file); the digest travels apart, and a mismatch is refused.
"""

import hashlib
from typing import Annotated, Literal, Self

from pydantic import Field

from finetune_api.base import Contract, canonical_json
from finetune_api.spec import FineTuneJobSpec

AbsolutePath = Annotated[str, Field(max_length=4096, pattern=r"^/")]


class DigestMismatch(ValueError):
    """The configuration is not the one that was meant."""


class JobIdentity(Contract):
    """Which attempt of which job this is."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the FineTuneJob."""
    namespace: Annotated[str, Field(max_length=63)] = "default"
    """Its namespace."""
    uid: Annotated[str, Field(max_length=63)] = ""
    """Its uid; empty for a run on this machine."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Counted from 1."""


class Paths(Contract):
    """Absolute folders on the machine that trains."""

    work: AbsolutePath
    """Checkpoints, events and results."""
    output: AbsolutePath
    """Where the artifact is written."""
    cache: AbsolutePath
    """Tokenised data and fetched models; may be shared between jobs."""
    manifest_folder: AbsolutePath
    """What relative file:// addresses start from."""


class Endpoint(Contract):
    """Where progress is posted; the token travels in a file of its own."""

    url: Annotated[str, Field(max_length=1024, pattern=r"^https://")]
    """The whole address of this attempt's progress."""
    ca: Annotated[str, Field(max_length=16384)] = ""
    """Certificates that the endpoint's own must chain to, PEM; the system's when empty."""


class RunConfig(Contract):
    """Everything that the trainer needs to know, and nothing it could look up."""

    version: Literal[1] = 1
    """Version of this format."""
    job: JobIdentity
    """Which attempt of which job this is."""
    spec: FineTuneJobSpec
    """The job's spec with its defaults."""
    paths: Paths
    """Where to read and write."""
    processes: Annotated[int, Field(ge=1, le=512 * 64)] = 1
    """Training processes over all nodes."""
    nodes: Annotated[int, Field(ge=1, le=512)] = 1
    """Pods that train together; processes is a multiple of it."""
    rendezvous: Annotated[str, Field(max_length=253)] = ""
    """Host name of node 0; empty for one node."""
    progress: Endpoint | None = None
    """Where progress is posted; nowhere for a run on this machine."""
    claims: Annotated[dict[str, AbsolutePath], Field(max_length=16)] = Field(default_factory=dict)
    """Where the claims that pvc:// addresses name are mounted."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Samples per process and pass, set after a device ran out of memory; measured when absent."""

    def to_json(self) -> str:
        """Return the canonical text: equal configurations give equal bytes."""
        return canonical_json(self.to_dict())

    def digest(self) -> str:
        """Return the sha256 of the canonical text as 64 hexadecimal digits."""
        return text_digest(self.to_json())

    @classmethod
    def from_json(cls, text: str | bytes, *, sha256: str | None = None) -> Self:
        """Read a configuration.

        Args:
            text: What `to_json` returned.
            sha256: The digest that came by another way; None accepts any text.

        Returns:
            The configuration.

        Raises:
            DigestMismatch: The text was changed on its way.
        """
        found = text_digest(text)
        if sha256 is not None and found != sha256:
            raise DigestMismatch(
                f"run configuration: must have sha256 {sha256}, found {found}. "
                "It was changed after the job was made; start the job again."
            )
        return cls.model_validate_json(text)


def text_digest(text: str | bytes) -> str:
    """Return the sha256 of a text's UTF-8 bytes as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
