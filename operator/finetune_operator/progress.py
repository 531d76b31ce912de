"""What the operator listens on: progress of trainers over HTTPS, /metrics and /healthz over HTTP.

A post is believed for the one pod that its token was made for: rank 0 of the Job in the path. Whether that Job is a
live job's present attempt is for the `sink` to say. Nothing here writes to the API server.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import TypeAdapter, ValidationError

from finetune_api.names import PROGRESS_PATH
from finetune_api.progress import ProgressEvent
from finetune_api.validation import show
from finetune_operator.errors import ClusterError
from finetune_operator.metrics import Metrics
from finetune_operator.tls import Certificate
from finetune_operator.tokens import Caller, TokenRefused

logger = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 64 * 1024
MAX_EVENTS: Final = 100
_READ_S: Final = 10.0
_RETRY_AFTER_S: Final = 5
_LOG_BURST: Final = 10
_LOG_PER_S: Final = 0.5
_STOP_S: Final = 2.0
_POD_TAIL: Final = re.compile(r"[a-z0-9]{5}")
_EVENTS: Final = TypeAdapter(list[ProgressEvent])


class Sink(Protocol):
    """Takes the events of a Job's rank 0."""

    def __call__(self, namespace: str, job: str, events: Sequence[ProgressEvent]) -> bool:
        """Take events, none of them for a sign of life; False when the Job is not a live job's present attempt."""
        ...


class Answer(NamedTuple):
    """What is sent back, and the metric's label for it."""

    status: HTTPStatus
    verdict: str
    reason: str = ""


class ProgressServer:
    """Decides about posts."""

    def __init__(
        self,
        check: Callable[[str], Awaitable[Caller]],
        sink: Sink,
        metrics: Metrics,
        holder: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Remember whom to ask.

        Args:
            check: Returns whom a token was made for; raises TokenRefused, or ClusterError when it cannot tell.
            sink: Takes what was accepted.
            metrics: Counts posts by verdict.
            holder: On a standby the address of the operator that holds the lease, or "" when that is not known; None
                where we hold it ourselves.
        """
        self._check = check
        self._sink = sink
        self._metrics = metrics
        self._holder = holder
        self._log = _BoundedLog()

    def app(self) -> web.Application:
        """Return the application that serves the one path."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post(PROGRESS_PATH, self._post)
        return app

    async def _post(self, request: web.Request) -> web.Response:
        answer = await self._answer(request)
        self._metrics.progress_posts.labels(answer.verdict).inc()
        headers: dict[str, str] = {}
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(_RETRY_AFTER_S)
            holder = self._holder()
            if holder:
                headers["Location"] = holder.rstrip("/") + request.raw_path
        if answer.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        # What was left unread would be taken for the next request; and a kept TLS connection costs 50 KiB per job.
        headers["Connection"] = "close"
        if answer.reason:
            self._log.tell(request, answer)
        text = f"{answer.reason}\n" if answer.reason else None
        return web.Response(status=answer.status, text=text, headers=headers)

    async def _answer(self, request: web.Request) -> Answer:
        if self._holder() is not None:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "standby", "this operator is on standby")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return Answer(HTTPStatus.UNAUTHORIZED, "missing", "a bearer token is needed")
        try:
            caller = await self._check(token.strip())
        except TokenRefused as error:
            return Answer(HTTPStatus.UNAUTHORIZED, error.verdict, str(error))
        except ClusterError as error:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "unchecked", f"tokens cannot be checked now: {error}")
        namespace, job = request.match_info["namespace"], request.match_info["job"]
        if caller.namespace != namespace or not is_rank_0(caller.pod, job):
            who = f"pod {caller.namespace}/{caller.pod}"
            return Answer(HTTPStatus.FORBIDDEN, "forbidden", f"{who} is not rank 0 of Job {namespace}/{job}")
        return await self._take(request, namespace, job)

    async def _take(self, request: web.Request, namespace: str, job: str) -> Answer:
        """Read the body of a caller that is known, and hand it on."""
        if request.headers.get("Content-Encoding", "identity") != "identity":
            return Answer(HTTPStatus.BAD_REQUEST, "malformed", "the body must not be compressed")
        try:
            async with asyncio.timeout(_READ_S):
                body = await request.read()
            events = _EVENTS.validate_json(body)
            if len(events) > MAX_EVENTS:
                too_many = f"{len(events)} events, at most {MAX_EVENTS} are taken"
                return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", too_many)
            running = self._sink(namespace, job, events)
        except web.HTTPRequestEntityTooLarge:
            too_large = f"at most {MAX_BODY_BYTES} bytes are read"
            return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", too_large)
        except TimeoutError:
            return Answer(HTTPStatus.REQUEST_TIMEOUT, "slow", f"the body did not arrive within {_READ_S:.0f} s")
        except ValidationError as error:
            return Answer(HTTPStatus.BAD_REQUEST, "malformed", f"not events: {error.errors()[0]['msg']}")
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Data of an event is free JSON; what the status needs of it may be missing or of another kind.
            return Answer(HTTPStatus.BAD_REQUEST, "malformed", f"data of an event: {type(error).__name__} {error}")
        if not running:
            return Answer(HTTPStatus.NOT_FOUND, "not_running", f"{namespace}/{job} is not the running attempt of a job")
        return Answer(HTTPStatus.NO_CONTENT, "accepted")


def is_rank_0(pod: str, job: str) -> bool:
    """Tell whether a pod's name is that of completion index 0 of an Indexed Job."""
    head = f"{job}-0-"
    return pod.startswith(head) and _POD_TAIL.fullmatch(pod, len(head)) is not None


def metrics_app(
    registry: CollectorRegistry, health: Callable[[], list[str]], pieces: Callable[[], AsyncIterator[bytes]]
) -> web.Application:
    """Return the application for probes and Prometheus.

    Args:
        registry: What /metrics tells of the operator.
        health: Returns what is wrong, one line each; /healthz is 200 for none.
        pieces: Yields what /metrics tells of the jobs.

    Returns:
        The application.
    """

    async def metrics(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
        await answer.prepare(request)
        await answer.write(generate_latest(registry))
        async for piece in pieces():
            await answer.write(piece)
        await answer.write_eof()
        return answer

    async def healthz(_request: web.Request) -> web.Response:
        problems = health()
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        return web.Response(status=status, text="".join(f"{each}\n" for each in problems) or "ok\n")

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/livez", livez)
    return app


class Endpoint:
    """An application on a port."""

    def __init__(self, app: web.Application, address: str, certificate: Certificate | None = None) -> None:
        """Remember what to serve.

        Args:
            app: The application.
            address: host:port; port 0 takes any free one, and [::]:port is every address.
            certificate: For HTTPS; plain HTTP without.
        """
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_S)
        self._address = address
        self._certificate = certificate
        self._fresh: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen.

        Returns:
            The URL, with the port that was taken.

        Raises:
            OSError: The address cannot be listened on.
        """  # noqa: DOC502
        host, _, port = self._address.rpartition(":")
        await self._runner.setup()
        context = self._certificate.context if self._certificate is not None else None
        await web.TCPSite(self._runner, host.strip("[]"), int(port), ssl_context=context).start()
        if self._certificate is not None:
            self._fresh = asyncio.create_task(self._certificate.keep_fresh())
        taken: Any = self._runner.addresses[0]
        return f"{'http' if context is None else 'https'}://{host}:{taken[1]}"

    async def stop(self) -> None:
        """Stop listening; requests under way get 2 s."""
        if self._fresh is not None:
            self._fresh.cancel()
        await self._runner.cleanup()


class _BoundedLog:
    """One line per refused post, but not more than a few: whoever can reach the port could fill the log."""

    def __init__(self) -> None:
        self._tokens = float(_LOG_BURST)
        self._at = time.monotonic()
        self._left_out = 0

    def tell(self, request: web.Request, answer: Answer) -> None:
        now = time.monotonic()
        self._tokens = min(float(_LOG_BURST), self._tokens + (now - self._at) * _LOG_PER_S)
        self._at = now
        if self._tokens < 1:
            self._left_out += 1
            return
        self._tokens -= 1
        more = f" ({self._left_out} more were not logged)" if self._left_out else ""
        self._left_out = 0
        what = (answer.status.value, answer.verdict, show(answer.reason), show(request.path), show(request.remote))
        logger.warning("progress refused: %d %s %s for %s from %s%s", *what, more)
