"""From `kubectl apply` to all pods running: whose time it is."""

import time

import pytest

from node.follow import Follow
from node.world import World

pytestmark = pytest.mark.e2e
_SHARE = 0.01


def test_the_operator_takes_at_most_a_hundredth_of_the_time_from_apply_to_running_pods(
    world: World, capsys: pytest.CaptureFixture[str]
):
    with Follow(world, "trace") as seen:
        applied = time.perf_counter()
        job = world.submit("trace", workers__nodes=2, training__maxSteps=2)
        job.await_phase("Running", "Complete")
        accepted, made, running = seen.first("FineTuneJob"), seen.first("Job"), seen.all_running(2)
        pods = seen.first("Pod")
    share = (made - accepted) / (running - applied)
    with capsys.disabled():
        print(  # noqa: T201 - what `make e2e` shows
            f"\napply -> accepted {1000 * (accepted - applied):.0f} ms"
            f" -> Job {1000 * (made - accepted):.1f} ms (operator, {100 * share:.2f} %)"
            f" -> first pod {1000 * (pods - made):.0f} ms -> both running {1000 * (running - pods):.0f} ms"
        )
    job.complete()

    assert share <= _SHARE
