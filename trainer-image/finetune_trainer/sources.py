"""From an address in the manifest to files on this machine.

`file://` starts at the manifest's folder, `package://` is a folder inside an installed Python package (which is not
imported), `hf://` is fetched once into the cache and pinned to its commit. Pickled weights are refused here, before
anything could load them.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from finetune_api.uri import Uri, parse_uri
from finetune_trainer.errors import ConfigError, DataError, ModelNotFound

_WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "*.gguf")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class Places:
    """Where relative addresses start, and where fetched files go."""

    manifest_folder: Path
    cache: Path


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine: its folder, the GGUF file in it if it is one, the exact revision if it has one."""

    uri: str
    folder: Path
    gguf_file: str | None = None
    revision: str | None = None


def locate_data(uri: str, places: Places) -> Path:
    """Return the local path of a data address.

    Args:
        uri: Address from the manifest.
        places: Where relative addresses start.

    Returns:
        A path; whether it exists is for the reader to say.

    Raises:
        ConfigError: This kind of address cannot be read here.
        DataError: The package or repository is not there.
    """  # noqa: DOC503
    parsed = parse_uri(uri)
    if parsed.scheme == "file":
        return places.manifest_folder / parsed.path
    if parsed.scheme == "package":
        folder = _package_folder(parsed)
        if folder is None:
            raise DataError(f"{uri}: the package is not installed", remedy=f"Install {parsed.location}.")
        return folder / parsed.path
    if parsed.scheme == "hf":
        return _fetch(parsed, places)[0] / parsed.path
    return _refuse_scheme(uri, parsed)


def locate_model(uri: str, places: Places) -> ModelFiles:
    """Return the local files of a model address.

    Args:
        uri: Address from the manifest.
        places: Where relative addresses start.

    Returns:
        The folder with config.json and safetensors, or the GGUF file.

    Raises:
        ConfigError: This kind of address cannot be read here.
        ModelNotFound: Nothing is there, or only pickled weights.
    """  # noqa: DOC503
    parsed = parse_uri(uri)
    revision: str | None = None
    if parsed.scheme == "file":
        root = places.manifest_folder / parsed.path
    elif parsed.scheme == "package":
        folder = _package_folder(parsed)
        if folder is None:
            raise ModelNotFound(
                f"{uri}: the package {parsed.location!r} is not installed", remedy=f"Install {parsed.location}."
            )
        root = folder / parsed.path
    elif parsed.scheme == "hf":
        root, revision = _fetch(parsed, places)
        root = root / parsed.path
    else:
        _refuse_scheme(uri, parsed)
    return _inspect(uri, root, revision)


def _inspect(uri: str, root: Path, revision: str | None) -> ModelFiles:
    if root.is_file():
        if root.suffix != ".gguf":
            raise ModelNotFound(
                f"{uri}: a single file must be GGUF, found {root.name}",
                remedy="Give the model's folder, with config.json and safetensors.",
            )
        return ModelFiles(uri, root.parent, root.name, revision)
    if not root.is_dir():
        raise ModelNotFound(f"{uri}: there is nothing at {root}", remedy="Correct spec.model.uri.")
    configs = sorted(root.rglob("config.json"), key=lambda path: (len(path.parts), path))
    models = [path.parent for path in configs if any(path.parent.glob("*.safetensors"))]
    if models:
        return ModelFiles(uri, models[0], None, revision)
    ggufs = sorted(root.rglob("*.gguf"))
    if len(ggufs) == 1:
        return ModelFiles(uri, ggufs[0].parent, ggufs[0].name, revision)
    if ggufs:
        found = ", ".join(path.name for path in ggufs)
        raise ModelNotFound(f"{uri}: {len(ggufs)} GGUF files ({found})", remedy="Name one of them in the address.")
    pickled = [path for pattern in _PICKLED for path in root.rglob(pattern)]
    if pickled:
        raise ModelNotFound(
            f"{uri}: only pickled weights ({pickled[0].name}), which can run any code when they are loaded",
            remedy="Convert them to safetensors with a tool you trust.",
        )
    if configs:
        return ModelFiles(uri, configs[0].parent, None, revision)
    raise ModelNotFound(
        f"{uri}: no config.json with safetensors and no GGUF file in {root}",
        remedy="Give the folder that holds config.json and model.safetensors.",
    )


def _package_folder(uri: Uri) -> Path | None:
    try:
        found = importlib.util.find_spec(uri.location)
    except (ImportError, ValueError):
        return None
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def _fetch(uri: Uri, places: Places) -> tuple[Path, str]:
    """Return the folder and the commit of a repository, fetched once."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a second that other addresses do not need
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    kind, _, name = uri.location.rpartition("datasets/")
    try:
        folder = snapshot_download(
            name if uri.location.startswith("datasets/") else uri.location,
            repo_type="dataset" if kind or uri.location.startswith("datasets/") else "model",
            revision=uri.revision or None,
            allow_patterns=None if uri.location.startswith("datasets/") else list(_WANTED),
            cache_dir=places.cache / "hub",
        )
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{uri}: access is restricted ({error})", remedy="Accept its terms and give a token in spec.secrets."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(
            f"{uri}: cannot be fetched ({error})", remedy="Check the name, the revision and the network."
        ) from error
    return Path(folder), Path(folder).name


def _refuse_scheme(uri: str, parsed: Uri) -> NoReturn:
    raise ConfigError(
        f"{uri}: {parsed.scheme}:// cannot be read by a run on this machine",
        remedy="Use file://, package:// or hf://, or run the manifest on a cluster.",
    )
