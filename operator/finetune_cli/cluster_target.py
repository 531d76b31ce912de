"""Which cluster, as whom, in which namespace: what kubectl reads from flags, kubeconfigs and a pod's own account."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_DEFAULT = "~/.kube/config"
_DEFAULT_NAMESPACE = "default"


class UsageError(Exception):
    """What was asked for cannot be; the message has path, rule, what was found, and a remedy."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a command goes."""

    kubeconfig: str | None
    """Paths joined by `:`; None for the account of the pod that this runs in."""
    context: str | None
    namespace: str


def find_target(kubeconfig: str | None, context: str | None, namespace: str | None) -> Target:
    """Decide where a command goes, by kubectl's rules.

    Args:
        kubeconfig: --kubeconfig, else $KUBECONFIG; several paths joined by `:`, the first that says something wins.
        context: --context; the current one when None.
        namespace: --namespace; the context's when None, else `default`.

    Returns:
        The target.

    Raises:
        UsageError: There is no such context, or nothing that leads to a cluster.
    """
    paths = kubeconfig or _DEFAULT
    read = [_read(Path(each).expanduser()) for each in paths.split(":") if each]
    found = [each for each in read if each is not None]
    if not found:
        if kubeconfig is None and context is None and (_ACCOUNT / "token").exists():
            return Target(None, None, namespace or _pod_namespace())
        raise UsageError(f"--kubeconfig: a file, found none at {paths}. Name one, or set KUBECONFIG.")
    contexts: dict[str, Mapping[str, Any]] = {}
    for each in found:
        for entry in each.get("contexts") or ():
            contexts.setdefault(str(entry.get("name")), entry.get("context") or {})
    chosen = context or next((str(each["current-context"]) for each in found if each.get("current-context")), "")
    if chosen not in contexts:
        known = ", ".join(contexts) or "no context at all"
        raise UsageError(f"--context: one of {known} in {paths}, found {chosen or 'none'}. Choose one.")
    return Target(paths, chosen, namespace or contexts[chosen].get("namespace") or _DEFAULT_NAMESPACE)


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: a readable kubeconfig, found {' '.join(str(error).split())}. Correct it.") from error
    if not isinstance(document, Mapping):
        raise UsageError(f"{path}: a kubeconfig, found {type(document).__name__}. Correct it.")
    return document


def _pod_namespace() -> str:
    path = _ACCOUNT / "namespace"
    return path.read_text(encoding="utf-8").strip() if path.exists() else _DEFAULT_NAMESPACE
