"""The only module that talks to the API server: requests in, dicts or one of `errors` out.

kubernetes.aio finds the server and the credentials; requests go through one session with plain dicts, since its typed
models cost 2 ms an object. Knows nothing of jobs: paths and bodies come from the callers.
"""

# pyright: reportUnknownMemberType=false

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import orjson
from kubernetes.aio import client, config

from finetune_api.names import GROUP, PLURAL, VERSION
from finetune_operator import errors

Object = dict[str, Any]
# The keys of service accounts are served as a type of their own, and to nobody who does not ask for it.
_ACCEPT = "application/json, application/jwk-set+json"
_MERGE_PATCH = "application/merge-patch+json"
_REQUEST_TIMEOUT_S = 30.0
_CONNECTIONS = 48
# The Date header has whole seconds and the answer took its time; a smaller difference is none.
_CLOCK_NOISE_S = 2.0
_CLOCK_EVERY_S = 5.0
# Parsed, a Job takes 30 KiB; what is kept of a page lies between what is freed, so large pages leave large holes.
_PAGE = 100


def finetunejobs(namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Return the path of FineTuneJobs, of one, or of its status."""
    return resource(f"/apis/{GROUP}/{VERSION}", PLURAL, namespace, name, subresource)


def jobs(namespace: str = "", name: str = "") -> str:
    """Return the path of batch/v1 Jobs, or of one."""
    return resource("/apis/batch/v1", "jobs", namespace, name)


def core(plural: str, namespace: str = "", name: str = "") -> str:
    """Return the path of objects of the core group."""
    return resource("/api/v1", plural, namespace, name)


def resource(root: str, plural: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Return a path below an API root; names are quoted."""
    parts = [root]
    if namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts += [plural, *(quote(part, safe="") for part in (name, subresource) if part)]
    return "/".join(parts)


class Cluster:
    """A connection to one API server."""

    def __init__(self, configuration: client.Configuration) -> None:
        """Keep the configuration; `open` connects."""
        self._configuration = configuration
        self._session: aiohttp.ClientSession | None = None
        self._offset_s = 0.0
        self._clock_read_at = float("-inf")
        self._throttled_until = 0.0
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before every write; a standby or a holder that lost its lease says no."""
        self.on_write: Callable[[str, str, str], None] = lambda _verb, _resource, _result: None
        """Told of every write: verb, resource, `ok` or the error's reason."""

    @classmethod
    async def load(cls, kubeconfig: str | None, context: str | None) -> Self:
        """Read a kubeconfig, or a pod's own credentials when None is given and none is at its default place."""
        configuration = client.Configuration()
        if kubeconfig is None and context is None:
            try:
                config.load_incluster_config(client_configuration=configuration)
                return cls(configuration)
            except config.ConfigException:
                pass
        await config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
        return cls(configuration)

    async def open(self) -> None:
        """Open the session in the running loop."""
        rest = client.ApiClient(self._configuration).rest_client
        connector = aiohttp.TCPConnector(ssl=rest.ssl_context, limit=_CONNECTIONS, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S, connect=10)
        # trust_env reads .netrc and proxies for every request: 4x the CPU.
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False, read_bufsize=2**21)

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    @property
    def configuration(self) -> client.Configuration:
        """Server and credentials, for kopf's login."""
        return self._configuration

    async def token(self) -> str | None:
        """Return the Authorization header's value."""
        found: str | None = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return found

    def now(self) -> datetime:
        """Return the API server's time: deadlines must not depend on this machine's clock."""
        return datetime.now(UTC) + timedelta(seconds=self._offset_s)

    async def get(self, path: str, **params: str) -> Object:
        """Return one object, or one page of a list."""
        return await self._request("GET", path, params)

    async def create(self, path: str, body: Object) -> Object:
        """Create an object and return it as it was stored."""
        return await self._write("create", "POST", path, body)

    async def rehearse(self, path: str, body: Object) -> None:
        """Let the API server check a creation as if it were meant, and store nothing."""
        await self._request("POST", path, {"dryRun": "All"}, body)

    async def patch(self, path: str, body: Object) -> Object:
        """Merge a patch into an object and return it; with metadata.resourceVersion it is refused when stale."""
        return await self._write("patch", "PATCH", path, body)

    async def replace(self, path: str, body: Object) -> Object:
        """Replace an object and return it."""
        return await self._write("update", "PUT", path, body)

    async def delete(self, path: str, uid: str) -> None:
        """Delete the object of this uid with all that it owns, in the background."""
        body: Object = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self._write("delete", "DELETE", path, body)

    async def pages(self, path: str, **params: str) -> AsyncIterator[Object]:
        """Yield a list page by page."""
        query = {"limit": str(_PAGE), **params}
        while True:
            page = await self._request("GET", path, query)
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            query = {"limit": str(_PAGE), **params, "continue": token}

    @asynccontextmanager
    async def watch(
        self, path: str, version: str, idle_s: float, **params: str
    ) -> AsyncGenerator[AsyncIterator[Object], None]:
        """Watch a collection after a version; yields the events as the API sends them, until the server ends it.

        Silence of idle_s seconds, bookmarks included, counts as a dead stream. params are selectors.
        """
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": "300"}
        timeout = aiohttp.ClientTimeout(total=None, connect=10, sock_read=idle_s)
        async with self._send("GET", path, {**query, **params}, None, timeout) as answer:
            if answer.status != HTTPStatus.OK:
                raise _error(answer.status, await answer.read(), answer.headers)
            yield _lines(answer.content)

    async def _write(self, verb: str, method: str, path: str, body: Object) -> Object:
        plural = _plural(path)
        if not self.may_write():
            raise errors.ClusterError(f"{verb} {path}: this process does not hold the lease", reason="NotLeader")
        try:
            answer = await self._request(method, path, {}, body)
        except errors.ClusterError as error:
            self.on_write(verb, plural, error.reason or "Unreachable")
            raise
        self.on_write(verb, plural, "ok")
        return answer

    async def _request(self, method: str, path: str, params: Mapping[str, str], body: Object | None = None) -> Object:
        async with self._send(method, path, params, body) as answer:
            data = await answer.read()
            self._read_clock(answer.headers)
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise _error(answer.status, data, answer.headers)
            found: Object = orjson.loads(data)
            return found

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: Object | None,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        assert self._session is not None, "internal: a request before open()"
        headers = {"Accept": _ACCEPT, "User-Agent": "finetune-operator"}
        token = await self.token()
        if token:
            headers["Authorization"] = token
        data: bytes | None = None
        if body is not None:
            data = orjson.dumps(body)
            headers["Content-Type"] = _MERGE_PATCH if method == "PATCH" else "application/json"
        more: dict[str, Any] = {} if limits is None else {"timeout": limits}
        url = f"{self._configuration.host}{path}"
        try:
            async with self._session.request(method, url, params=params, data=data, headers=headers, **more) as answer:
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.Unreachable(f"{method} {path}: {type(error).__name__} {error}") from error

    def _read_clock(self, headers: Mapping[str, str]) -> None:
        at = time.monotonic()
        if at - self._clock_read_at < _CLOCK_EVERY_S or "Date" not in headers:
            return
        self._clock_read_at = at
        told = parsedate_to_datetime(headers["Date"]) + timedelta(seconds=0.5)
        offset_s = (told - datetime.now(UTC)).total_seconds()
        self._offset_s = 0.0 if abs(offset_s) < _CLOCK_NOISE_S else offset_s


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[Object]:
    """Yield one JSON object per line; a chunk holds many lines, and a line may span chunks."""
    rest = b""
    try:
        async for chunk in stream.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line:
                    found: Object = orjson.loads(line)
                    yield found
            # A long backlog must not keep workers and the lease from running.
            await asyncio.sleep(0)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise errors.Unreachable(f"watch: {type(error).__name__} {error}") from error


def _plural(path: str) -> str:
    parts = path.strip("/").split("/")
    start = 2 if parts[0] == "api" else 3
    if parts[start : start + 1] == ["namespaces"] and len(parts) > start + 2:
        start += 2
    return parts[start] + ("/status" if parts[-1] == "status" else "")


def _error(code: int, data: bytes, headers: Mapping[str, str]) -> errors.ClusterError:
    """Return the error that an answer means."""
    try:
        status: Object = orjson.loads(data)
    except ValueError:
        status = {"message": data[:300].decode(errors="replace")}
    reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    retry_after_s = _seconds(headers.get("Retry-After")) or (status.get("details") or {}).get("retryAfterSeconds")
    if code == HTTPStatus.CONFLICT:
        kind: type[errors.ClusterError] = errors.AlreadyExists if reason == "AlreadyExists" else errors.Conflict
    elif code == HTTPStatus.FORBIDDEN and _terminating(status):
        kind = errors.NamespaceTerminating
    else:
        kind = _KINDS.get(code, errors.Unreachable if code >= HTTPStatus.INTERNAL_SERVER_ERROR else errors.ClusterError)
    return kind(f"{code} {reason}: {message}", code, reason, retry_after_s)


_KINDS: Mapping[int, type[errors.ClusterError]] = {
    HTTPStatus.NOT_FOUND: errors.NotFound,
    HTTPStatus.GONE: errors.Gone,
    HTTPStatus.TOO_MANY_REQUESTS: errors.Throttled,
    HTTPStatus.FORBIDDEN: errors.Refused,
    HTTPStatus.UNPROCESSABLE_ENTITY: errors.Refused,
}


def _terminating(status: Object) -> bool:
    causes = (status.get("details") or {}).get("causes") or ()
    return any(each.get("reason") == "NamespaceTerminating" for each in causes)


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdecimal() else None
