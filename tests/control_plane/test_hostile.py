"""Hostile texts in every field and names of every shape on a real API server: refused by us first, or literal."""

import copy
import random
import string
import uuid
from collections.abc import Iterator
from typing import Any

import httpx

from finetune_api.names import ANNOTATION_RUN_CONFIG
from finetune_api.run_config import RunConfig
from finetune_api.spec import FineTuneJob
from finetune_api.validation import InvalidSpec, Problem, validate_manifest
from finetune_operator.plan import plan, unsupported
from finetune_operator.plan.environment import literal
from golden.cases import COLLECTIONS, FIRST, SETTINGS, children, manifest_of, named

STRICT = {"dryRun": "All", "fieldValidation": "Strict"}
TEXTS = (
    "$(HOME)",
    "$$(HOME)",
    "a\nb: c",
    "a\0b",
    "../../etc/passwd",
    "/etc/passwd",
    "\u202eabc",
    "; rm -rf / #`id`",
    "\x1b[2J",
    "{{ .Values.x }}",
    "'\"\\",
    " ",
    "%s%n",
)
Place = tuple[str | int, ...]


def post(api: httpx.Client, namespace: str, document: dict[str, Any]) -> httpx.Response:
    moved = copy.deepcopy(document)
    moved["metadata"]["namespace"] = namespace
    return api.post(COLLECTIONS[document["kind"]].format(namespace), json=moved, params=STRICT)


def texts_below(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield where the texts below a value are."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts_below(each, (*place, key))


def with_text(document: dict[str, Any], place: Place, text: str) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    target: Any = changed
    for part in place[:-1]:
        target = target[part]
    target[place[-1]] = text
    return changed


def judged(document: dict[str, Any]) -> tuple[FineTuneJob | None, tuple[Problem, ...]]:
    """Return the job, or None and why it is refused."""
    try:
        job = validate_manifest(document)
    except InvalidSpec as error:
        return None, error.problems
    problems = unsupported(job)
    return None if problems else job, problems


def every_text(value: Any) -> Iterator[str]:
    """Yield every text below a value, those of the run configuration one by one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            if key == ANNOTATION_RUN_CONFIG:
                yield from every_text(RunConfig.from_json(each).to_dict())
            else:
                yield from every_text(each)


def full_manifest() -> dict[str, Any]:
    """Return a manifest with a text in every kind of field."""
    document = manifest_of("everything")
    spec = document["spec"]
    spec["scheduling"]["queue"] = "team-a"
    spec["secrets"]["huggingFace"] = {"name": "hf", "key": "token"}
    spec["storage"]["storageClassName"] = "fast"
    spec["data"]["fields"] = {"text": "body"}
    spec["data"]["validation"] = {"uri": "pvc://corpus/validation.jsonl", "format": "jsonl"}
    spec["data"]["test"] = {"uri": "hf://datasets/org/rows@main/test.parquet"}
    spec["training"] = {"schedule": "linear", "precision": "auto"}
    spec["evaluation"] = {"every": "10steps", "metrics": ["loss"], "gate": {"metric": "loss", "minimum": 1}}
    spec["checkpoint"] = {"every": "5m"}
    return document


def test_a_hostile_text_in_any_field_is_refused_with_a_path_or_stays_what_it_is(api: httpx.Client, namespace: str):
    document = full_manifest()
    places = [("spec", *place) for place in texts_below(document["spec"])]
    accepted: set[str] = set()
    for place in places:
        for text in TEXTS:
            job, problems = judged(with_text(document, place, text))
            assert all(problem.path and str(problem).isprintable() for problem in problems)
            if job is None:
                continue
            answer = post(api, namespace, plan(job, FIRST, SETTINGS).job)
            assert answer.status_code == httpx.codes.CREATED, (place, text, answer.json()["message"])
            stored = set(every_text(answer.json()))
            assert text in stored or literal(text) in stored, (place, text)
            accepted.add(".".join(str(part) for part in place if isinstance(part, str)))

    assert len(places) > 60
    assert accepted == {
        "spec.data.fields.text",
        "spec.pod.annotations.example.com/note",
        "spec.pod.env.value",
        "spec.pod.image",
        "spec.pod.volumeMounts.mountPath",
        "spec.pod.volumeMounts.subPath",
    }


def test_the_api_server_accepts_the_children_of_every_shape_of_name(api: httpx.Client, namespace: str):
    rng = random.Random(11)
    inner, edge = string.ascii_lowercase + string.digits + "-", string.ascii_lowercase + string.digits
    shapes = ["a", "0", "0-0", "a.b", "1.2.3", "a" * 63, "9" * 253, "a.-.b".replace("-", "b"), "x" + "-" * 100 + "x"]
    for length in range(1, 254, 6):
        middle = "".join(rng.choice(inner) for _ in range(length - 2))
        shapes.append((rng.choice(edge) + middle + rng.choice(edge))[:length].rstrip("-"))
    for name in shapes:
        planned = plan(named(name, str(uuid.UUID(int=rng.getrandbits(128))), nodes=2), FIRST, SETTINGS)
        for child in children(planned):
            answer = post(api, namespace, child)
            assert answer.status_code == httpx.codes.CREATED, (name, answer.json()["message"])
