"""Follows a collection of pods with list and watch, until told to stop."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx

_WATCH_S = "1"


def follow(client: httpx.Client, url: str, stop: threading.Event) -> Iterator[dict[str, Any]]:
    """Yield every pod as it is found and whenever it changes.

    Each watch lasts a second, so that `stop` is seen without a second thread; nothing is missed between two of them.
    """
    version = ""
    while not stop.is_set():
        if not version:
            listed = client.get(url).raise_for_status().json()
            version = listed["metadata"]["resourceVersion"]
            yield from listed["items"]
        params = {"watch": "1", "resourceVersion": version, "timeoutSeconds": _WATCH_S, "allowWatchBookmarks": "true"}
        with client.stream("GET", url, params=params) as answer:
            for line in answer.iter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    version = ""
                    break
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] in {"ADDED", "MODIFIED"}:
                    yield event["object"]
