"""What a person asks of the API server beyond what the operator does: tables, logs, manifests, changes as they come.

Imported by the commands that need it alone: the client takes a quarter of a second to load.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp

from finetune_cli.cluster_target import Target, UsageError
from finetune_operator import errors
from finetune_operator.cluster import Cluster, finetunejobs

Object = dict[str, Any]
JSON: Final = "application/json"
TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"
MANAGER: Final = "finetune"
"""Owner of the fields that these commands write, in an object's managedFields."""
_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
_IDLE_S: Final = 90.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0
_REQUEST_S: Final = 30.0
_PAGE: Final = "500"


class UserCluster(Cluster):
    """A connection for one command."""

    @classmethod
    @asynccontextmanager
    async def connect(cls, target: Target) -> AsyncGenerator[Self, None]:
        """Connect to where a target leads, and close at the end."""
        try:
            cluster = await cls.load(target.kubeconfig, target.context)
            await cluster.open()
        except Exception as error:  # a credential plugin may raise anything
            what = " ".join(str(error).split())
            raise UsageError(f"{target.kubeconfig or 'the pod'}: usable credentials, found {what}. Log in.") from error
        try:
            yield cluster
        finally:
            await cluster.close()

    async def table(self, path: str, **selectors: str) -> Object:
        """Return a list, or one object, as the table that kubectl shows."""
        whole: Object = {}
        query = {"limit": _PAGE, **selectors}
        while True:
            page = await self._read(path, TABLE, query)
            if whole:
                whole["rows"] += page["rows"]
            else:
                whole = page
            token = page["metadata"].get("continue")
            if not token:
                return whole
            query["continue"] = token

    async def apply(self, namespace: str, name: str, manifest: Object) -> Object:
        """Apply a FineTuneJob server-side and return it as it is stored; unknown fields are refused."""
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        return await self._change(finetunejobs(namespace, name), query, _APPLY, manifest)

    async def edit(self, namespace: str, name: str, change: Object) -> Object:
        """Merge a change into a FineTuneJob and return it."""
        return await self._change(finetunejobs(namespace, name), {"fieldManager": MANAGER}, _MERGE, change)

    async def log(self, path: str, **params: str) -> AsyncIterator[bytes]:
        """Yield a container's log as it comes."""
        unbounded = aiohttp.ClientTimeout(total=None, connect=10)
        async with self._ask("GET", path, params, {"Accept": "*/*"}, timeout=unbounded) as answer:
            async for chunk in answer.content.iter_any():
                yield chunk

    async def changes(
        self, path: str, accept: str = JSON, **selectors: str
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """Yield what is there as one list, then every change, over streams that break.

        The kind is LIST, ADDED, MODIFIED, DELETED, or OUTAGE for an error that is waited out; after an outage a LIST
        comes again. An error of the first list is raised.
        """
        version, wait_s, listed = "", _FIRST_WAIT_S, False
        while True:
            try:
                if not version:
                    found = await self._read(path, accept, selectors)
                    version, listed = found["metadata"]["resourceVersion"], True
                    yield "LIST", found
                async for kind, body in self._watch(path, version, accept, selectors):
                    version, wait_s = body["metadata"]["resourceVersion"], _FIRST_WAIT_S
                    if kind != "BOOKMARK":
                        yield kind, body
                # The server ends a watch after some minutes; one that something else ends at once must not be a storm.
                await asyncio.sleep(_FIRST_WAIT_S)
            except (errors.Unreachable, errors.Gone, errors.Throttled) as error:
                if not listed:
                    raise
                version = ""
                yield "OUTAGE", {"message": str(error)}
                await asyncio.sleep(max(error.retry_after_s or 0.0, wait_s * random.uniform(0.5, 1)))
                wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)

    async def _watch(
        self, path: str, version: str, accept: str, selectors: Mapping[str, str]
    ) -> AsyncIterator[tuple[str, Object]]:
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "300", "resourceVersion": version}
        silence = aiohttp.ClientTimeout(total=None, connect=10, sock_read=_IDLE_S)
        async with self._ask("GET", path, {**selectors, **query}, {"Accept": accept}, timeout=silence) as answer:
            async for line in answer.content:
                event: Object = json.loads(line)
                body: Object = event["object"]
                if event["type"] == "ERROR":
                    raise errors.Gone(str(body.get("message")), int(body.get("code") or 0))
                if "metadata" not in body or "resourceVersion" not in body["metadata"]:
                    body = {**body, "metadata": body["rows"][0]["object"]["metadata"]}
                yield event["type"], body

    async def _read(self, path: str, accept: str, query: Mapping[str, str]) -> Object:
        async with self._ask("GET", path, query, {"Accept": accept}) as answer:
            return json.loads(await answer.read())

    async def _change(self, path: str, query: Mapping[str, str], form: str, body: Object) -> Object:
        headers = {"Accept": JSON, "Content-Type": form}
        async with self._ask("PATCH", path, query, headers, data=json.dumps(body).encode()) as answer:
            return json.loads(await answer.read())

    @asynccontextmanager
    async def _ask(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], **more: Any
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        assert self._session is not None, "internal: a request before open()"
        token = await self.token()
        whole = {**headers, "User-Agent": MANAGER} | ({"Authorization": token} if token else {})
        more.setdefault("timeout", aiohttp.ClientTimeout(total=_REQUEST_S, connect=10))
        url = f"{self.configuration.host}{path}"
        try:
            async with self._session.request(method, url, params=dict(query), headers=whole, **more) as answer:
                if answer.status >= HTTPStatus.BAD_REQUEST:
                    raise _refusal(answer.status, await answer.read())
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.Unreachable(f"{self.configuration.host}: {str(error) or type(error).__name__}") from error


def _refusal(code: int, data: bytes) -> errors.ClusterError:
    try:
        status: Object = json.loads(data)
    except ValueError:
        status = {"message": data[:300].decode(errors="replace")}
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    wait_s = (status.get("details") or {}).get("retryAfterSeconds")
    kind = _KINDS.get(code, errors.Unreachable if code >= HTTPStatus.INTERNAL_SERVER_ERROR else errors.ClusterError)
    return kind(f"{code} {reason}: {message}", code, reason, wait_s)


_KINDS: Mapping[int, type[errors.ClusterError]] = {
    HTTPStatus.NOT_FOUND: errors.NotFound,
    HTTPStatus.CONFLICT: errors.Conflict,
    HTTPStatus.GONE: errors.Gone,
    HTTPStatus.TOO_MANY_REQUESTS: errors.Throttled,
}
