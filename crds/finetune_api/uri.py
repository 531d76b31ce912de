"""Addresses of models, data and outputs: parsed in one place, allow-listed, without credentials or `..`.

| scheme  | location                     | path                   | revision                   |
|---------|------------------------------|------------------------|----------------------------|
| hf      | `org/name`, `datasets/org/name` | file in the repository | branch, tag or commit      |
| s3, gs  | bucket                       | key                    |                            |
| oci     | registry, with its port      | repository             | tag or `sha256:...`        |
| pvc     | claim                        | path in the volume     |                            |
| package | import name                  | path in the package    |                            |
| file    | empty                        | relative to the manifest's folder, or absolute with a leading `/` | |

Reads nothing: whether the address exists is found out where it is fetched.
"""

import re
from dataclasses import dataclass
from typing import Final

MAX_URI_LENGTH: Final = 1024
SCHEMES: Final = ("hf", "s3", "gs", "oci", "pvc", "package", "file")

_CHAR = r"[A-Za-z0-9_~+=,%!() -]"
# A segment is never `.` or `..`; RE2 has no look-ahead, so the leading dots are spelled out.
_SEGMENT = rf"(?:\.{{0,2}}{_CHAR}(?:{_CHAR}|\.)*|\.{{3,}}(?:{_CHAR}|\.)*)"
_PATH = rf"(?P<path>(?:{_SEGMENT})(?:/{_SEGMENT})*)"
_DNS = r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?"
_REPO = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_REVISION = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_FILE_SEGMENT = r"(?:[^/.?#@\x00-\x1f\x7f][^/?#\x00-\x1f\x7f]*|\.[^/.?#\x00-\x1f\x7f][^/?#\x00-\x1f\x7f]*|\.)"

_PATTERNS: Final = {
    "hf": rf"(?P<location>(?:(?:datasets/)?{_REPO}/)?{_REPO})(?:@(?P<revision>{_REVISION}))?(?:/{_PATH})?/?",
    "s3": rf"(?P<location>{_DNS})(?:/{_PATH})?/?",
    "gs": rf"(?P<location>[a-z0-9](?:[-a-z0-9._]*[a-z0-9])?)(?:/{_PATH})?/?",
    "oci": (
        rf"(?P<location>{_DNS}(?::[0-9]{{1,5}})?)/(?P<path>[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*)"
        r"(?:(?::|@)(?P<revision>sha256:[0-9a-f]{64}|[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    ),
    "pvc": rf"(?P<location>{_DNS})(?:/{_PATH})?/?",
    "package": rf"(?P<location>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)(?:/{_PATH})?/?",
    "file": rf"(?P<path>/?{_FILE_SEGMENT}(?:/{_FILE_SEGMENT})*)/?",
}
_COMPILED: Final = {scheme: re.compile(pattern) for scheme, pattern in _PATTERNS.items()}
_FORMS: Final = {
    "hf": "hf://org/name@revision, then /path for one file",
    "s3": "s3://bucket/key",
    "gs": "gs://bucket/key",
    "oci": "oci://registry/repository:tag or @sha256:digest",
    "pvc": "pvc://claim/path",
    "package": "package://import_name/path",
    "file": "file://path beside the manifest, or file:///absolute/path",
}


class InvalidUri(ValueError):
    """An address that the contract does not allow; the message says what was found and how it is written."""


@dataclass(frozen=True, slots=True)
class Uri:
    """One parsed address; see the table at the head of this file."""

    scheme: str
    location: str
    path: str
    revision: str

    def __str__(self) -> str:
        if self.scheme == "oci":
            mark = "@" if self.revision.startswith("sha256:") else ":"
            return f"oci://{self.location}/{self.path}" + (f"{mark}{self.revision}" if self.revision else "")
        place = self.location + (f"@{self.revision}" if self.revision else "")
        between = "/" if place and self.path else ""
        return f"{self.scheme}://{place}{between}{self.path}"


def parse_uri(text: str) -> Uri:
    """Parse one address.

    Args:
        text: The address as written in a manifest.

    Returns:
        Its parts; absent ones are empty strings, a trailing slash is dropped.

    Raises:
        InvalidUri: The scheme is not allowed, or the rest does not have that scheme's form.
    """
    if len(text) > MAX_URI_LENGTH:
        raise InvalidUri(f"is {len(text)} characters long, at most {MAX_URI_LENGTH} are allowed")
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _COMPILED:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise InvalidUri(f"has no scheme that is known here; write one of {known}")
    if ".." in rest.split("/"):
        raise InvalidUri("climbs out of its place with '..'; write the path without it")
    if "@" in rest.partition("/")[0] and scheme != "hf":
        raise InvalidUri("carries credentials or an '@' before the first '/'; put credentials into spec.secrets")
    match = _COMPILED[scheme].fullmatch(rest)
    if match is None:
        raise InvalidUri(f"is not of the form {_FORMS[scheme]}")
    parts = match.groupdict()
    path = parts.get("path") or ""
    if scheme == "file":
        path = _without_dots(path)
    return Uri(scheme, parts.get("location") or "", path, parts.get("revision") or "")


def uri_pattern(schemes: tuple[str, ...] = SCHEMES) -> str:
    """Return the same rules as one anchored regular expression that RE2 (the API server) understands."""
    without_names = [re.sub(r"\?P<\w+>", "?:", _PATTERNS[scheme]) for scheme in schemes]
    forms = "|".join(f"{scheme}://{rest}" for scheme, rest in zip(schemes, without_names, strict=True))
    return f"^(?:{forms})$"


def _without_dots(path: str) -> str:
    kept = [part for part in path.split("/") if part != "."]
    # A name with an '@' at the head of an address would read as credentials.
    return ("./" if kept and "@" in kept[0] else "") + "/".join(kept) or "."
