"""The words that the cluster commands share: names, ages, conditions. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from finetune_api.names import GROUP, KIND, PLURAL, SHORT_NAME, SINGULAR
from finetune_cli.cluster_target import UsageError
from finetune_operator import errors
from finetune_operator.diagnose_text import clean
from finetune_operator.observe import Object
from finetune_operator.status import condition

RESOURCE: Final = f"{SINGULAR}.{GROUP}"
_KIND_NAMES: Final = frozenset({PLURAL, SINGULAR, SHORT_NAME, KIND.lower(), f"{PLURAL}.{GROUP}", f"{SINGULAR}.{GROUP}"})
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def plain_name(text: str) -> str:
    """Return a job's name from NAME, ftj/NAME or what `-o name` prints; UsageError for another kind."""
    kind, slash, name = text.rpartition("/")
    if (slash and kind.lower() not in _KIND_NAMES) or not name:
        raise UsageError(f"NAME: the name of a {KIND}, found {clean(text)!r}. See them with: finetune status")
    return name


def duration(seconds: float) -> str:
    """Return a span of time as kubectl writes an age: two units while the second one tells something."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // _MINUTE, whole // _HOUR, whole // _DAY
    if whole < 2 * _MINUTE:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m" + (f"{whole % _MINUTE}s" if whole % _MINUTE else "")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h" + (f"{minutes % 60}m" if minutes % 60 else "")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d" + (f"{hours % 24}h" if hours % 24 else "")
    return f"{days}d"


def when(text: str | None, now: datetime) -> str:
    """Return a time of the API's with its distance from now; empty for none."""
    if not text:
        return ""
    distance_s = (now - datetime.fromisoformat(text)).total_seconds()
    return f"{text} (in {duration(-distance_s)})" if distance_s < 0 else f"{text} ({duration(distance_s)} ago)"


def clean_lines(text: str) -> list[str]:
    """Return a text of several lines, each safe to print."""
    return [clean(line, 4096) for line in text.splitlines() if line.strip()]


def holds(job: Object, kind: str) -> bool:
    """Tell whether a condition of a job is True."""
    return condition(status_of(job), kind).get("status") == "True"


def status_of(job: Object) -> Mapping[str, Any]:
    """Return a job's status, empty when it has none yet."""
    return job.get("status") or {}


def attempt_of(job: Object) -> int:
    """Return the attempt that a job is at, counted from 1."""
    return max(1, status_of(job).get("attempt", 1))


def checkpoint_words(job: Object) -> str:
    """Say where a job goes on from."""
    if (job["spec"].get("storage") or {}).get("ephemeral"):
        return "step 0, since storage.ephemeral keeps no checkpoint"
    if not status_of(job).get("startTime"):
        return "the beginning"
    step = (status_of(job).get("checkpoint") or {}).get("step")
    return "its newest checkpoint" if step is None else f"its newest checkpoint, step {step} or later"


def told(error: errors.ClusterError) -> str:
    """Return an error as kubectl says it, with what to do about it."""
    if isinstance(error, errors.Unreachable) and not error.code:
        return f"Unable to connect to the server: {clean(str(error))}. Check --context and the network."
    message = clean(str(error).removeprefix(f"{error.code} {error.reason}: "))
    return f"Error from server ({error.reason or error.code}): {message}{_remedy(error, message)}"


def outage_words(outage: Object) -> str:
    """Return the line about an outage that is waited out."""
    return f"the API server does not answer, trying again: {clean(outage['message'])}\n"


def _remedy(error: errors.ClusterError, message: str) -> str:
    if "could not find the requested resource" in message:
        return f". The cluster does not serve {KIND}s: an administrator installs the chart finetune-operator."
    if message.startswith("Apply failed with"):
        return (
            " Leave the field out of the manifest, or take it over with: kubectl apply --server-side --force-conflicts"
        )
    by_reason = {
        "NotFound": ". See the names with: finetune status --all-namespaces",
        "Forbidden": ". Ask an administrator for the right, or choose another --context or --namespace.",
        "Unauthorized": ". Log in again: the kubeconfig's credentials are not accepted.",
    }
    return by_reason.get(error.reason, "")
