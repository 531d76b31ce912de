"""FAULTS 48 on the trainer's side: the endpoint is down, refuses, is slow; nothing but the posting notices."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.progress import EventKind, ProgressEvent
from finetune_api.run_config import Endpoint, text_digest
from finetune_trainer.posting import EventTail, Pace, Poster
from support.https import Post, Receiver
from support.tiny import manifest, run_config, write_rows

PATH = "/v1/namespaces/ml/jobs/a/progress"
FAST = Pace(every_s=0.05, urgent_s=0.01, alive_s=30, look_s=0.01, timeout_s=0.3, patience_s=0.1)
PATIENCE_S = 30.0


class Run:
    """An event file that grows, and a poster on it."""

    def __init__(self, folder: Path, url: str, ca: str, pace: Pace = FAST) -> None:
        self.file, self.token = folder / "events.jsonl", folder / "token"
        self.token.write_text("token-1\n")
        self.log: list[str] = []
        self.poster = Poster(Endpoint(url=url + PATH, ca=ca), self.file, self.token, pace, self.log.append)

    def tell(self, kind: EventKind, /, **data: object) -> None:
        with self.file.open("a") as stream:
            stream.write(event(kind, **data).to_json() + "\n")


def event(kind: EventKind, /, **data: object) -> ProgressEvent:
    return ProgressEvent(kind=kind, at="2026-03-01T12:00:00Z", data=data)  # type: ignore[arg-type]


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "internal: the test waited in vain"
        time.sleep(0.005)


@pytest.fixture
def receiver(tmp_path: Path):
    with Receiver(tmp_path) as found:
        yield found


def test_the_newest_events_are_posted_with_the_token_of_the_moment(tmp_path: Path, receiver: Receiver):
    run = Run(tmp_path, receiver.url, receiver.ca)
    run.poster.start()
    run.tell("progress", step=1)
    until(lambda: receiver.told("progress") == [{"step": 1}])
    run.token.write_text("token-2\n")
    run.tell("progress", step=2)
    until(lambda: len(receiver.told("progress")) == 2)
    run.poster.stop()

    assert [each.token for each in receiver.posts] == ["token-1", "token-2"]
    assert {each.path for each in receiver.posts} == {PATH}
    assert run.log == [f"progress is posted to {receiver.url}{PATH}\n"]


def test_what_an_earlier_attempt_wrote_is_not_posted_again(tmp_path: Path, receiver: Receiver):
    (tmp_path / "events.jsonl").write_text(event("progress", step=99).to_json() + "\n")
    run = Run(tmp_path, receiver.url, receiver.ca)
    run.poster.start()
    run.tell("progress", step=1)
    until(lambda: receiver.posts)
    run.poster.stop()

    assert receiver.told("progress") == [{"step": 1}]


def test_a_checkpoint_is_posted_at_once_and_the_end_too(tmp_path: Path, receiver: Receiver):
    slow = Pace(every_s=3600, urgent_s=0.01, alive_s=3600, look_s=0.01)
    run = Run(tmp_path, receiver.url, receiver.ca, slow)
    run.poster.start()
    run.tell("progress", step=1)
    until(lambda: receiver.posts)
    run.tell("checkpoint", step=1, path="checkpoints/step-00000001")
    until(lambda: receiver.told("checkpoint"))
    run.tell("progress", step=2)
    run.poster.stop()

    assert receiver.told("progress")[-1] == {"step": 2}
    assert len(receiver.posts) == 3


def test_a_run_without_news_shows_that_it_lives(tmp_path: Path, receiver: Receiver):
    run = Run(tmp_path, receiver.url, receiver.ca, Pace(every_s=0.01, urgent_s=0.01, alive_s=0.02, look_s=0.01))
    run.poster.start()
    run.tell("progress", step=1)
    until(lambda: len(receiver.posts) >= 3)
    run.poster.stop()

    assert receiver.posts[1].events == []


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_events_that_were_refused_are_posted_once_it_works_again_each_change_told_once(
    tmp_path: Path, receiver: Receiver, status: int
):
    receiver.answer = lambda _: status
    receiver.headers = {"Retry-After": "0"}
    run = Run(tmp_path, receiver.url, receiver.ca)
    run.poster.start()
    run.tell("checkpoint", step=5, path="x")
    until(lambda: len(receiver.posts) >= 4)
    receiver.posts.clear()
    receiver.answer = lambda _: 204
    until(lambda: len(run.log) == 2)
    run.poster.stop()

    assert receiver.told("checkpoint")[-1] == {"step": 5, "path": "x"}
    assert f"HTTP {status}" in run.log[0]
    assert "posted again after" in run.log[1]


@pytest.mark.parametrize("status", [400, 413])
def test_events_that_can_never_be_taken_are_not_posted_again(tmp_path: Path, receiver: Receiver, status: int):
    receiver.answer = lambda post: status if post.events[0]["data"]["step"] == 1 else 204
    run = Run(tmp_path, receiver.url, receiver.ca)
    run.poster.start()
    run.tell("progress", step=1)
    until(lambda: receiver.posts)
    run.tell("progress", step=2)
    until(lambda: len(receiver.posts) == 2)
    run.poster.stop()

    assert [each["step"] for each in receiver.told("progress")] == [1, 2]


def test_an_endpoint_that_is_down_is_tried_until_it_is_there(tmp_path: Path):
    receiver = Receiver(tmp_path)
    with receiver:
        pass
    run = Run(tmp_path, receiver.url, receiver.ca)
    run.poster.start()
    run.tell("progress", step=1)
    until(lambda: run.log)
    run.tell("progress", step=2)
    with receiver:
        until(lambda: receiver.posts)
        run.poster.stop()

    assert receiver.told("progress") == [{"step": 2}]
    assert "cannot be posted, training goes on: ConnectionRefusedError" in run.log[0]


def test_a_slow_endpoint_holds_up_neither_the_writer_nor_the_end(tmp_path: Path, receiver: Receiver):
    release = threading.Event()
    receiver.answer = lambda _: 204 if release.wait(PATIENCE_S) else 500
    run = Run(tmp_path, receiver.url, receiver.ca)
    run.poster.start()
    for step in range(200):
        run.tell("progress", step=step)
    until(lambda: receiver.posts)
    run.poster.stop()
    release.set()

    assert len(run.file.read_text().splitlines()) == 200


def test_a_token_that_is_missing_or_a_certificate_of_somebody_else_is_only_a_failure(
    tmp_path: Path, receiver: Receiver
):
    (tmp_path / "other").mkdir()
    other = Receiver(tmp_path / "other")
    wrong = Run(tmp_path, receiver.url, other.ca)
    wrong.poster.start()
    wrong.tell("progress", step=1)
    until(lambda: wrong.log)
    wrong.poster.stop()
    missing = Run(tmp_path, receiver.url, receiver.ca)
    missing.token.unlink()
    missing.poster.start()
    missing.tell("progress", step=1)
    until(lambda: missing.log)
    missing.poster.stop()

    assert "SSLCertVerificationError" in wrong.log[0]
    assert "FileNotFoundError" in missing.log[0]
    assert not receiver.posts


def test_a_redirect_does_not_carry_the_token_anywhere(tmp_path: Path, receiver: Receiver):
    (tmp_path / "other").mkdir()
    with Receiver(tmp_path / "other") as other:
        receiver.answer = lambda _: 307
        receiver.headers = {"Location": other.url + PATH}
        run = Run(tmp_path, receiver.url, receiver.ca)
        run.poster.start()
        run.tell("progress", step=1)
        until(lambda: run.log)
        run.poster.stop()

    assert "HTTP 307" in run.log[0]
    assert not other.posts


def test_one_post_carries_at_most_100_events_and_60_kib_and_the_rest_follows(tmp_path: Path, receiver: Receiver):
    sizes: list[int] = []

    def measure(post: Post) -> int:
        sizes.append(len(post.events))
        return 204

    receiver.answer = measure
    run = Run(tmp_path, receiver.url, receiver.ca)
    for index in range(150):
        run.tell("decision", name=f"d{index}", value="v", reason="r" * 1000)
    run.poster.start()
    until(lambda: sum(sizes) == 150)
    run.poster.stop()

    assert max(sizes) <= 100
    assert [each["name"] for each in receiver.told("decision")] == [f"d{index}" for index in range(150)]


def test_half_a_line_is_read_when_it_is_whole_and_a_damaged_one_is_left_out(tmp_path: Path):
    file = tmp_path / "events.jsonl"
    tail = EventTail(file)
    tail.look()
    line = event("progress", step=1).to_json()
    file.write_text(line[:20])
    tail.look()
    assert not tail.waiting()
    file.write_text(f"{line}\nnot json\n{event('warning', x=1).to_json()}\n")
    tail.look()

    assert [each.data for each in tail.take()] == [{"step": 1}]
    assert not tail.waiting()


def test_a_run_is_reported_from_its_decisions_to_its_end_and_one_whose_operator_refuses_trains_all_the_same(
    tmp_path: Path, tiny_bert: Path, receiver: Receiver
):
    document = manifest("text-classification", tiny_bert, write_rows(tmp_path, "text-classification"))
    (tmp_path / "token").write_text("token-1")
    environment = os.environ | {"FINETUNE_TOKEN_FILE": str(tmp_path / "token")}  # noqa: TID251 - a child needs PATH
    outcomes: list[int] = []
    for attempt, status in enumerate((204, 403)):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        receiver.answer = lambda _, status=status: status
        endpoint = Endpoint(url=receiver.url + PATH, ca=receiver.ca)
        text = run_config(folder, document).model_copy(update={"progress": endpoint}).to_json()
        (folder / "run.json").write_text(text)
        command = [sys.executable, "-m", "finetune_trainer", "launch", "--config", str(folder / "run.json")]
        done = subprocess.run([*command, "--sha256", text_digest(text)], env=environment, check=False, timeout=300)
        outcomes.append(done.returncode)
        if status == 204:
            assert receiver.told("progress")[-1]["step"] == 4
            assert {"parameters", "steps"} <= {each["name"] for each in receiver.told("decision")}

    assert outcomes == [0, 0]
