"""What /healthz tells: overdue signs of life, refused writes, and a part that keeps ending."""

from typing import Any, cast

from finetune_operator.health import Health
from support.jobs import SETTINGS


def health() -> Health:
    return Health(cast("Any", None), SETTINGS)


def test_silence_is_a_problem_only_after_its_time_and_ends_with_the_next_sign():
    found = health()
    found.expect("Jobs", 60.0)
    assert found.problems() == []

    found.expect("Jobs", -1.0)
    assert "nothing was heard of Jobs" in found.problems()[0]

    found.expect("Jobs", 60.0)
    assert found.problems() == []


def test_what_is_told_about_one_thing_is_taken_back_alone():
    found = health()
    found.tell("writes", "no writes")
    found.tell("FineTuneJobs", "no definition")
    found.tell("writes", "")

    assert found.problems() == ["no definition"]


def test_a_watch_that_broke_now_and_then_is_no_problem_and_one_that_keeps_ending_is():
    found = health()
    for _ in range(3):
        found.ended("the watch", "no user name")
    assert found.problems() == []

    found.ended("the watch", "no user name")
    assert found.problems() == ["the watch ends again and again: no user name"]
