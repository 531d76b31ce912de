"""Repositories of a Hugging Face hub: fetched once into a cache, each kind of refusal with its own reason.

A pod that cannot reach the hub is tried again; one that asks for what is not there, or not for it, is not.
"""

import re
from http import HTTPStatus
from pathlib import Path
from typing import Final

from finetune_api.uri import Uri
from finetune_trainer.errors import AccessDenied, DataError, ModelNotFound, StorageUnavailable, TrainerError

# Of a model, never pickled weights: they can run any code when they are loaded.
_WANTED: Final = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "*.gguf")
_DATASETS: Final = "datasets/"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_DEFAULT_BRANCH: Final = "main"


def fetch_snapshot(uri: Uri, cache: Path, *, keeps_first: bool) -> tuple[Path, str]:
    """Fetch what is missing of a repository.

    Args:
        uri: An hf:// address.
        cache: Where it goes.
        keeps_first: Whether a branch that is in the cache stays at its commit.

    Returns:
        The folder, and the commit.

    Raises:
        AccessDenied: The hub does not let us have it.
        DataError: There is no such data set.
        ModelNotFound: There is no such model.
        StorageUnavailable: The hub cannot be reached, or the cache cannot be written.
    """  # noqa: DOC503
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a second that other addresses do not need

    name, is_data = uri.location.removeprefix(_DATASETS), uri.location.startswith(_DATASETS)
    folder = cache / "hub"
    revision = uri.revision or _DEFAULT_BRANCH
    if keeps_first:
        revision = _first_commit(folder, name, revision, is_data=is_data)
    try:
        found = snapshot_download(
            name,
            repo_type="dataset" if is_data else "model",
            revision=revision,
            allow_patterns=None if is_data else list(_WANTED),
            cache_dir=folder,
        )
    except OSError as error:
        raise _explained(uri, error, is_data=is_data) from error
    return Path(found), Path(found).name


def _first_commit(folder: Path, name: str, revision: str, *, is_data: bool) -> str:
    """Return the commit that a branch had when it was first fetched, the branch itself before that."""
    repository = f"{'datasets' if is_data else 'models'}--{name.replace('/', '--')}"
    try:
        commit = (folder / repository / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return revision
    return commit if _COMMIT.fullmatch(commit) else revision


def _explained(uri: Uri, error: OSError, *, is_data: bool) -> TrainerError:
    """Return the failure that an error of the hub's client stands for."""
    from huggingface_hub import constants, errors  # noqa: PLC0415 - as above

    # The client hides most answers behind "not in the cache".
    answered = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__
    status = answered.response.status_code if isinstance(answered, errors.HfHubHTTPError) else 0
    missing = DataError if is_data else ModelNotFound
    if isinstance(error, errors.GatedRepoError):
        return AccessDenied(
            f"{uri}: access is restricted ({error})",
            remedy="Accept its terms on the hub and give a token in spec.secrets.huggingFace.",
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        return missing(
            f"{uri}: the hub has no such repository or revision, or it is private ({error})",
            remedy="Check the name and the revision; a private one needs a token in spec.secrets.huggingFace.",
        )
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return AccessDenied(
            f"{uri}: the hub refuses us ({error})", remedy="Check the token in spec.secrets.huggingFace and its rights."
        )
    if isinstance(error, errors.LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE:
        return missing(f"{uri}: not in the cache, and this run is offline", remedy="Fetch it first, or go online.")
    if status and status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
        return missing(f"{uri}: the hub refuses the request ({error})", remedy="Check the address.")
    return StorageUnavailable(
        f"{uri}: the hub cannot be reached, or the cache cannot be written ({error})",
        remedy="Check the network, HF_ENDPOINT and the space of the work volume.",
    )
