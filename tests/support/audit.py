"""What the API server noted of the operator's requests: which it asked for, and which its role did not allow."""

import json
from pathlib import Path
from typing import Any

from support.accounts import OPERATOR_USER

_LOG = "audit.log"


def audit_flags(folder: Path) -> list[str]:
    """Return flags of kube-apiserver that note every request of the operator in a folder, and of nobody else."""
    policy = folder / "audit-policy.json"
    noted = {"level": "Metadata", "users": [OPERATOR_USER], "omitStages": ["RequestReceived", "ResponseStarted"]}
    rules = [noted, {"level": "None"}]
    policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
    return [f"--audit-policy-file={policy}", f"--audit-log-path={folder / _LOG}", "--audit-log-mode=blocking"]


def forbidden(folder: Path) -> list[str]:
    """Return the operator's requests that its role did not allow, each once."""
    events = [json.loads(line) for line in (folder / _LOG).read_text().splitlines()] if (folder / _LOG).exists() else []
    return sorted({_words(each) for each in events if _decision(each) == "forbid"})


def _decision(event: dict[str, Any]) -> str:
    return event.get("annotations", {}).get("authorization.k8s.io/decision", "")


def _words(event: dict[str, Any]) -> str:
    reference = event.get("objectRef", {})
    return (
        f"{event['verb']} {reference.get('resource', event['requestURI'])} {reference.get('subresource', '')}".strip()
    )
