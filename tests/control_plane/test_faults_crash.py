"""FAULTS 1 to 7: the operator is killed at every write, twice at once, or without its lease."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_api.exit_codes import Reason, exit_code
from support.accounts import make_namespace
from support.faults import to
from support.waiting import await_that
from support.world import Story, World, complete_message, failure_message, truth


def answers_to_posts(world: World) -> list[int]:
    return [each.status for each in world.proxy.requests if to("jobs", "POST")(each)]


def test_f01_killed_after_the_job_was_posted_the_job_is_found_by_its_name(world: World):
    world.proxy.after_write(1, world.operator.kill, to("jobs", "POST"), lose=True)
    world.operator.start()
    world.apply()
    await_that(lambda: not world.operator.is_running, "the kill")
    world.operator.start()
    world.run()

    assert len(world.children()) == 1
    # 0: the answer that was lost with the process.
    assert answers_to_posts(world) in ([0], [0, 409])


def test_f02_killed_before_the_job_was_posted_there_is_exactly_one_after_the_restart(world: World):
    world.proxy.before_write(1, world.operator.kill, to("jobs", "POST"))
    world.start_watching()
    world.apply()
    await_that(lambda: not world.operator.is_running, "the kill")
    assert world.children() == []
    world.operator.start()
    world.run()

    assert len(world.children()) == 1


def test_f03_killed_between_the_attempt_and_its_job_the_same_name_is_made_once(world: World):
    world.operator.start()
    world.apply()
    child = world.run()
    world.proxy.before_write(1, world.operator.kill, to("jobs", "POST"))
    world.kubelet.finish(child, exit_code=exit_code(Reason.STORAGE_UNAVAILABLE))
    await_that(lambda: not world.operator.is_running, "the kill")
    assert world.status()["attempt"] == 2
    world.operator.start()
    world.run(attempt=2)

    assert [each["metadata"]["name"] for each in world.children()] == [child, world.child_name(attempt=2)]


def finish_well(world: World) -> None:
    world.apply()
    world.kubelet.finish(world.run(), message=complete_message())
    world.await_phase("Complete")


def restart_once(world: World) -> None:
    world.apply()
    world.kubelet.finish(world.run(), exit_code=77, message=failure_message(Reason.STORAGE_UNAVAILABLE))
    world.kubelet.finish(world.run(attempt=2), message=complete_message())
    world.await_phase("Complete")


def suspend_and_resume(world: World) -> None:
    world.apply()
    child = world.run()
    world.edit("a", {"suspend": True})
    await_that(lambda: world.kubelet.reap(child), "pods that end")
    world.await_phase("Suspended")
    world.edit("a", {"suspend": False})
    await_that(lambda: not world.children()[0]["spec"].get("suspend"), "a resumed Job")
    world.kubelet.finish(world.run(), message=complete_message())
    world.await_phase("Complete")


def fail_for_good(world: World) -> None:
    world.apply()
    world.kubelet.finish(world.run(), exit_code=65, message=failure_message(Reason.DATA_ERROR))
    world.await_phase("Failed")


def counted(request) -> bool:
    # Events are best effort: one that is lost with the process changes nothing.
    return request.is_write and request.resource != "events"


def play(cluster, folder: Path, story: Story, kill_at: int | None, *, before: bool) -> tuple[dict, int]:
    """Run a story in a namespace of its own, killed around one write; return the end and the number of writes.

    A run whose patches happened to be merged may make fewer writes than `kill_at`: it ends undisturbed.
    """
    stem = f"{story.__name__.replace('_', '-')}-{kill_at or 'calm'}-{'before' if before else 'after'}"
    with cluster.client() as client:
        name = make_namespace(client, stem)
    with World(cluster, name, folder / name) as world:
        if kill_at is not None:
            hook = world.proxy.before_write if before else world.proxy.after_write
            hook(kill_at, world.operator.restart_soon, counted, lose=True)
        world.operator.start()
        story(world)
        world.settle()
        if kill_at is not None and sum(map(counted, world.proxy.writes)) >= kill_at:
            world.operator.await_restart()
            world.settle()
        return truth(world), sum(map(counted, world.proxy.writes))


@pytest.mark.parametrize("story", [finish_well, restart_once, suspend_and_resume, fail_for_good])
def test_f04_killed_at_every_write_the_end_is_that_of_the_undisturbed_run(cluster, tmp_path: Path, story: Story):
    calm, writes = play(cluster, tmp_path, story, None, before=False)

    assert writes >= 3
    with ThreadPoolExecutor(4) as pool:
        kills = [(k, before) for k in range(1, writes + 1) for before in (False, True)]
        ends = pool.map(lambda kill: play(cluster, tmp_path, story, kill[0], before=kill[1])[0], kills)
        for (k, before), end in zip(kills, ends, strict=True):
            assert end == calm, f"killed {'before' if before else 'after'} write {k} of {writes}"


def test_f05_asked_to_stop_in_a_burst_it_leaves_with_code_0_and_gives_the_lease_up(world: World):
    flags = (f"--lease-namespace={world.namespace}",)
    operator = world.another_operator("leased", flags=flags)
    operator.start()
    for number in range(60):
        world.apply(f"burst-{number}")
    started = time.monotonic()
    code = operator.terminate()
    took_s = time.monotonic() - started
    lease = world.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{world.namespace}/leases/finetune-operator").json()

    assert code == 0
    assert took_s < 5
    assert not lease["spec"].get("holderIdentity")


def test_f06_two_operators_at_once_make_one_gang_per_job_and_agree(world: World):
    other = world.another_operator("other", direct=True)
    # One posts what it decided on when the other has posted the same.
    world.proxy.delay(0.3, to("jobs", "POST"))
    world.operator.start()
    other.start()
    try:
        for number in range(10):
            world.apply(f"j{number}")
        children = [world.run(f"j{number}") for number in range(10)]
        world.settle()
        # Before the end, which deletes whatever a gang was not.
        assert {each["metadata"]["name"] for each in world.children(None)} == set(children)
        for child in children:
            world.kubelet.finish(child, message=complete_message())
        for number in range(10):
            world.await_phase("Complete", f"j{number}")
            assert world.status(f"j{number}")["attempt"] == 1

        assert 409 in answers_to_posts(world)
    finally:
        other.kill()


def test_f07_an_operator_that_was_paused_and_lost_its_lease_writes_nothing_more(world: World):
    flags = (f"--lease-namespace={world.namespace}",)
    first, second = (
        world.another_operator("first", flags=flags),
        world.another_operator("second", flags=flags, direct=True),
    )
    first.start()
    try:
        world.apply("before")
        world.await_child("before")
        first.pause()
        second.start()
        world.apply("after")
        world.await_child("after")
        count = len(world.proxy.writes)
        # It hears of a job, and not of the Job that the other one made for it.
        world.proxy.delay_watches(10.0, to("jobs", watch=True))
        first.resume()
        world.apply("later")
        world.await_child("later")
        time.sleep(3)
        late = [each for each in world.proxy.writes[count:] if each.resource != "leases"]

        assert late == []
    finally:
        first.kill()
        second.kill()
