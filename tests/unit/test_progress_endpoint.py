"""FAULTS 38, 48 and 49 at the operator's endpoint: who may post what, and what is told to whom."""

import asyncio
import datetime as dt
import ipaddress
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from finetune_api.names import PROGRESS_PATH
from finetune_api.progress import ProgressEvent
from finetune_operator.errors import Unreachable
from finetune_operator.metrics import Metrics
from finetune_operator.progress import Endpoint, ProgressServer, metrics_app
from finetune_operator.tls import Certificate
from finetune_operator.tokens import Caller, TokenRefused

JOB = "sentiment-abcdefghij"
PATH = PROGRESS_PATH.format(namespace="ml", job=JOB)
GOOD = {"Authorization": "Bearer good"}
EVENT = {"kind": "progress", "at": "2026-03-01T12:00:00Z", "data": {"step": 1, "loss": 0.5}}
Send = Callable[..., Awaitable[tuple[int, str, Any]]]


class World:
    """The server with everything around it under the test's control."""

    def __init__(self) -> None:
        self.caller = Caller("ml", f"{JOB}-0-x7k2p", "uid", "default")
        self.refusal: Exception | None = None
        self.holder: str | None = None
        self.running = True
        self.broken: Exception | None = None
        self.taken: list[tuple[str, str, list[ProgressEvent]]] = []
        self.metrics = Metrics(CollectorRegistry())

    async def check(self, token: str) -> Caller:
        if token != "good":
            raise self.refusal or TokenRefused("signature", "the signature does not hold")
        return self.caller

    def sink(self, namespace: str, job: str, events: Sequence[ProgressEvent]) -> bool:
        if self.broken is not None:
            raise self.broken
        self.taken.append((namespace, job, list(events)))
        return self.running

    def verdicts(self) -> dict[str, float]:
        (family,) = self.metrics.progress_posts.collect()
        return {each.labels["verdict"]: each.value for each in family.samples if each.name.endswith("_total")}

    def play(self, scenario: Callable[[Send], Awaitable[None]]) -> None:
        async def run() -> None:
            server = ProgressServer(self.check, self.sink, self.metrics, lambda: self.holder)
            endpoint = Endpoint(server.app(), "127.0.0.1:0")
            url = await endpoint.start()
            async with aiohttp.ClientSession() as session:

                async def send(body: Any = None, *, path: str = PATH, headers: Any = GOOD, **more: Any) -> Any:
                    data = body if isinstance(body, bytes) else json.dumps([EVENT] if body is None else body)
                    async with session.post(url + path, data=data, headers=headers, **more) as answer:
                        return answer.status, await answer.text(), answer.headers

                await scenario(send)
            await endpoint.stop()

        asyncio.run(run())


def test_events_of_rank_0_of_the_running_attempt_are_taken():
    world = World()

    async def scenario(send: Send) -> None:
        assert (await send())[0] == 204
        assert (await send([]))[0] == 204

    world.play(scenario)
    assert world.taken == [("ml", JOB, [ProgressEvent.model_validate_json(json.dumps(EVENT))]), ("ml", JOB, [])]
    assert world.verdicts() == {"accepted": 2}


def test_a_post_without_a_token_or_with_a_refused_one_is_401_and_goes_no_further():
    world = World()

    async def scenario(send: Send) -> None:
        for headers in ({}, {"Authorization": "Basic good"}, {"Authorization": "Bearer"}):
            status, _, answer = await send(headers=headers)
            assert (status, answer["WWW-Authenticate"]) == (401, "Bearer")
        assert (await send(headers={"Authorization": "Bearer bad"}))[0] == 401
        world.refusal = TokenRefused("expired", "expired 90 s ago")
        status, text, _ = await send(headers={"Authorization": "Bearer bad"})
        assert (status, text) == (401, "expired 90 s ago\n")

    world.play(scenario)
    assert not world.taken
    assert world.verdicts() == {"missing": 3, "signature": 1, "expired": 1}


@pytest.mark.parametrize(
    ("namespace", "pod"),
    [
        ("other", f"{JOB}-0-x7k2p"),
        ("ml", f"{JOB}-1-x7k2p"),
        ("ml", f"{JOB}-0-x7k2"),
        ("ml", f"{JOB}-0-x7k2pp"),
        ("ml", f"{JOB}-0-X7K2P"),
        ("ml", f"{JOB}-0-x7k2p\n"),
        ("ml", f"x{JOB}-0-x7k2p"),
        ("ml", "another-abcdefghij-0-x7k2p"),
        ("ml", JOB),
    ],
)
def test_another_pod_may_not_post_for_this_job(namespace: str, pod: str):
    world = World()
    world.caller = Caller(namespace, pod, "uid", "default")

    async def scenario(send: Send) -> None:
        assert (await send())[0] == 403

    world.play(scenario)
    assert not world.taken


def test_a_pattern_in_the_path_is_a_name_and_not_a_pattern():
    world = World()

    async def scenario(send: Send) -> None:
        assert (await send(path=PROGRESS_PATH.format(namespace="ml", job=".*")))[0] == 403

    world.play(scenario)


def test_an_attempt_that_is_not_the_running_one_is_told_so():
    world = World()
    world.running = False

    async def scenario(send: Send) -> None:
        status, text, _ = await send()
        assert status == 404
        assert "not the running attempt" in text

    world.play(scenario)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[" * 60_000,
        b"\xff\xfe",
        b'[{"kind": "progress"}]',
        json.dumps([EVENT | {"kind": "other"}]).encode(),
        json.dumps([EVENT | {"at": "yesterday"}]).encode(),
        json.dumps([EVENT | {"more": 1}]).encode(),
        json.dumps([EVENT | {"data": {"loss": float("nan")}}]).encode()[:-1],
    ],
)
def test_a_body_that_is_not_events_is_400(body: bytes):
    world = World()

    async def scenario(send: Send) -> None:
        assert (await send(body))[0] == 400

    world.play(scenario)
    assert not world.taken


@pytest.mark.parametrize("error", [KeyError("step"), TypeError("x"), ValueError("x"), OverflowError("x")])
def test_data_that_the_status_cannot_use_is_400_and_no_crash(error: Exception):
    world = World()
    world.broken = error

    async def scenario(send: Send) -> None:
        assert (await send())[0] == 400

    world.play(scenario)


def test_more_than_64_kib_or_100_events_are_413():
    world = World()

    async def scenario(send: Send) -> None:
        assert (await send([EVENT] * 100))[0] == 204
        assert (await send([EVENT] * 101))[0] == 413
        assert (await send(b" " * (64 * 1024 + 1)))[0] == 413

    world.play(scenario)
    assert world.verdicts() == {"accepted": 1, "too_large": 2}


def test_a_compressed_body_is_refused_since_little_could_become_much():
    async def scenario(send: Send) -> None:
        assert (await send(compress="gzip"))[0] == 400

    World().play(scenario)


def test_a_standby_says_when_to_come_back_and_where_the_holder_is():
    world = World()
    world.holder = ""

    async def scenario(send: Send) -> None:
        status, _, headers = await send()
        assert (status, headers["Retry-After"], "Location" in headers) == (503, "5", False)
        world.holder = "https://10.0.0.7:8443"
        _, _, headers = await send(allow_redirects=False)
        assert headers["Location"] == f"https://10.0.0.7:8443{PATH}"

    world.play(scenario)
    assert not world.taken


def test_when_keys_cannot_be_read_the_trainer_is_asked_to_come_back():
    world = World()
    world.refusal = Unreachable("down")

    async def scenario(send: Send) -> None:
        assert (await send(headers={"Authorization": "Bearer x"}))[0] == 503

    world.play(scenario)
    assert world.verdicts() == {"unchecked": 1}


def test_refused_posts_are_logged_on_one_escaped_line_each_and_only_a_few_of_many(caplog: pytest.LogCaptureFixture):
    world = World()
    world.refusal = TokenRefused("claims", "the pod is \u202ebad\nWARNING all is well\x1b[2J")

    async def scenario(send: Send) -> None:
        for _ in range(40):
            await send(path="/v1/namespaces/m%0Al/jobs/a%1B/progress", headers={"Authorization": "Bearer x"})

    with caplog.at_level(logging.WARNING):
        world.play(scenario)
    messages = [each.getMessage() for each in caplog.records]
    assert 1 <= len(messages) <= 15
    assert all(each.isascii() and each.isprintable() for each in messages)


def test_other_paths_and_methods_are_not_served():
    async def scenario(send: Send) -> None:
        assert (await send(path="/"))[0] == 404
        assert (await send(path=PATH + "/x"))[0] == 404
        assert (await send(path=PATH.replace("/ml/", "/ml%2Fx/")))[0] in {403, 404}

    World().play(scenario)


def certificate(folder: Path, name: str) -> Certificate:
    write_certificate(folder, name)
    return Certificate(folder / "tls.crt", folder / "tls.key")


def write_certificate(folder: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


async def served_name(url: str) -> str:
    host, _, port = url.removeprefix("https://").partition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    (attribute,) = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(attribute.value)


def test_a_certificate_that_changed_is_served_and_a_broken_one_is_not(tmp_path: Path):
    async def scenario() -> None:
        shown = certificate(tmp_path, "first")
        world = World()
        endpoint = Endpoint(ProgressServer(world.check, world.sink, world.metrics).app(), "127.0.0.1:0", shown)
        url = await endpoint.start()
        assert await served_name(url) == "first"
        assert not shown.reload()
        write_certificate(tmp_path, "second")
        assert shown.reload()
        assert await served_name(url) == "second"
        (tmp_path / "tls.key").write_text("half a ke")
        assert not shown.reload()
        assert await served_name(url) == "second"
        write_certificate(tmp_path, "third")
        assert shown.reload()
        assert await served_name(url) == "third"
        await endpoint.stop()

    asyncio.run(scenario())


async def fetched(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


def test_health_tells_every_problem_and_metrics_tell_the_operator_and_then_its_jobs_piece_by_piece():
    problems: list[str] = []
    metrics = Metrics(CollectorRegistry())

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one 1\n"
        yield b"two 2\n"

    async def scenario() -> None:
        endpoint = Endpoint(metrics_app(metrics.registry, lambda: problems, pieces), "127.0.0.1:0")
        url = await endpoint.start()
        assert await fetched(f"{url}/healthz") == (200, "ok\n")
        problems.extend(["no permission", "no CRD"])
        assert await fetched(f"{url}/healthz") == (503, "no permission\nno CRD\n")

        metrics.writes.labels("create", "jobs", "ok").inc()
        text = (await fetched(f"{url}/metrics"))[1]
        assert 'finetune_operator_writes_total{resource="jobs",result="ok",verb="create"} 1.0' in text
        assert text.endswith("one 1\ntwo 2\n")
        await endpoint.stop()

    asyncio.run(scenario())
