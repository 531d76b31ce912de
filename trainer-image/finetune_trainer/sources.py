"""From an address in the manifest to files on this machine.

`file://` starts at the manifest's folder, `package://` is a folder inside an installed Python package (which is not
imported), `hf://` is fetched once into the cache and pinned to its commit, `pvc://` is a claim that the operator has
mounted. Pickled weights are refused here, before anything could load them.
"""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from finetune_api.run_config import RunConfig
from finetune_api.uri import Uri, parse_uri
from finetune_trainer.errors import ConfigError, DataError, ModelNotFound
from finetune_trainer.hub import fetch_snapshot

FUSION = "finetune-fusion"
"""`model_type` of a folder whose subfolders hold encoders."""
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class Places:
    """Where relative addresses start, where fetched files go, and where claims are mounted."""

    manifest_folder: Path
    cache: Path
    claims: Mapping[str, str] = field(default_factory=dict[str, str])
    keeps_first: bool = False
    """Whether a branch that was fetched before stays at that commit: a restart must not go on with another model."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine: its folder, the GGUF file in it if it is one, the exact revision if it has one."""

    uri: str
    folder: Path
    gguf_file: str | None = None
    revision: str | None = None


def places_of(config: RunConfig, *, keeps_first: bool = False) -> Places:
    """Return the places of a run."""
    paths = config.paths
    return Places(Path(paths.manifest_folder), Path(paths.cache), config.claims, keeps_first)


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
        AccessDenied: The hub does not let us have it.
        StorageUnavailable: The hub cannot be reached.
    """  # noqa: DOC503
    parsed = parse_uri(uri)
    mounted = _mounted(parsed, places)
    if mounted is not None:
        return mounted
    if parsed.scheme == "package":
        folder = _package_folder(parsed)
        if folder is None:
            raise DataError(f"{uri}: the package is not installed", remedy=f"Install {parsed.location}.")
        return folder / parsed.path
    if parsed.scheme == "hf":
        return fetch_snapshot(parsed, places.cache, keeps_first=places.keeps_first)[0] / parsed.path
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
        AccessDenied: The hub does not let us have it.
        StorageUnavailable: The hub cannot be reached.
    """  # noqa: DOC503
    parsed = parse_uri(uri)
    revision: str | None = None
    mounted = _mounted(parsed, places)
    if mounted is not None:
        root = mounted
    elif parsed.scheme == "package":
        folder = _package_folder(parsed)
        if folder is None:
            raise ModelNotFound(
                f"{uri}: the package {parsed.location!r} is not installed", remedy=f"Install {parsed.location}."
            )
        root = folder / parsed.path
    elif parsed.scheme == "hf":
        root, revision = fetch_snapshot(parsed, places.cache, keeps_first=places.keeps_first)
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
    if _is_fusion(root):
        for part in (each for each in sorted(root.iterdir()) if each.is_dir() and not has_weights(each)):
            _refuse_pickled(f"{uri}/{part.name}", part)
        return ModelFiles(uri, root, None, revision)
    configs = sorted(root.rglob("config.json"), key=lambda path: (len(path.parts), path))
    models = [path.parent for path in configs if has_weights(path.parent)]
    if models:
        return ModelFiles(uri, models[0], None, revision)
    ggufs = sorted(root.rglob("*.gguf"))
    if len(ggufs) == 1:
        return ModelFiles(uri, ggufs[0].parent, ggufs[0].name, revision)
    if ggufs:
        found = ", ".join(path.name for path in ggufs)
        raise ModelNotFound(f"{uri}: {len(ggufs)} GGUF files ({found})", remedy="Name one of them in the address.")
    _refuse_pickled(uri, root)
    if configs:
        return ModelFiles(uri, configs[0].parent, None, revision)
    raise ModelNotFound(
        f"{uri}: no config.json with safetensors and no GGUF file in {root}",
        remedy="Give the folder that holds config.json and model.safetensors.",
    )


def has_weights(folder: Path) -> bool:
    """Tell whether safetensors are in a folder itself."""
    return any(folder.glob("*.safetensors"))


def _refuse_pickled(uri: str, folder: Path) -> None:
    pickled = [path for pattern in _PICKLED for path in folder.rglob(pattern)]
    if pickled:
        raise ModelNotFound(
            f"{uri}: only pickled weights ({pickled[0].name}), which can run any code when they are loaded",
            remedy="Convert them to safetensors with a tool you trust.",
        )


def _is_fusion(root: Path) -> bool:
    """Tell whether a folder holds encoders in subfolders, and weights of its own or none."""
    try:
        return json.loads((root / "config.json").read_text(encoding="utf-8")).get("model_type") == FUSION
    except (OSError, ValueError, AttributeError):
        return False


def _mounted(uri: Uri, places: Places) -> Path | None:
    """Return the path of an address whose files are on this machine already."""
    if uri.scheme == "file":
        return places.manifest_folder / uri.path
    if uri.scheme == "pvc" and uri.location in places.claims:
        return Path(places.claims[uri.location]) / uri.path
    return None


def _package_folder(uri: Uri) -> Path | None:
    try:
        found = importlib.util.find_spec(uri.location)
    except (ImportError, ValueError):
        return None
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def _refuse_scheme(uri: str, parsed: Uri) -> NoReturn:
    raise ConfigError(
        f"{uri}: {parsed.scheme}:// cannot be read by a run on this machine",
        remedy="Use file://, package:// or hf://, or run the manifest on a cluster.",
    )
