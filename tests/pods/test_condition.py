"""What is read from a pod's status."""

from typing import Any

import pytest

from conftest import bundled_languages
from runnerd import Job, Limits, Result, SandboxLost
from runnerd.executors.pods import condition
from runnerd.executors.pods.condition import End
from runnerd.executors.pods.ownership import Sights
from runnerd.executors.pods.sandbox import PodSandbox
from runnerd.executors.pods.sighting import Sighting
from runnerd.executors.wire import Wire

READY = {"tenant": "", "tmp": "/tmp", "level": "pod", "enforced": [], "missing": []}


def pod(phase: str = "Pending", state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    containers = [{"name": "sandbox", "image": "an-image", "state": state}] if state else []
    return {"metadata": {"name": "p"}, "status": {"phase": phase, "containerStatuses": containers, **status}}


def terminated(**how: Any) -> dict[str, Any]:
    return {"terminated": how}


def test_an_address_is_known_once_the_container_runs() -> None:
    assert condition.address(pod(podIP="10.0.0.1")) == ""
    assert condition.address(pod("Running", {"running": {}}, podIP="10.0.0.1")) == "10.0.0.1"
    assert condition.address(pod("Running", terminated(exitCode=1), podIP="10.0.0.1")) == ""


@pytest.mark.parametrize("reason", condition.HOPELESS)
def test_what_will_not_start_is_told_with_its_image(reason: str) -> None:
    trouble = condition.trouble(pod(state={"waiting": {"reason": reason, "message": "pull access denied"}}))
    assert trouble == f"{condition.HOPELESS[reason]}: an-image: pull access denied"


def test_what_is_on_its_way_is_no_trouble() -> None:
    assert condition.trouble(pod(state={"waiting": {"reason": "ContainerCreating"}})) == ""
    assert condition.trouble(pod()) == ""


def test_why_a_pod_still_waits() -> None:
    unschedulable = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    assert condition.waits_for(pod(conditions=[unschedulable])) == "no node takes it: 0/1 nodes are available"
    assert condition.waits_for(pod(state={"waiting": {"reason": "CrashLoopBackOff", "message": "x"}})) == "CrashLoopBackOff: x"


ENDS = {
    "agent": (pod("Failed", terminated(exitCode=3, message="failed ImportError: x\n")), "its agent ended with 3: failed ImportError: x"),
    "signal": (pod("Failed", terminated(exitCode=137, signal=9)), "its agent was ended by signal 9"),
    "evicted": (pod("Failed", reason="Evicted", message="The node was low on resource: memory."), "Evicted: The node was low"),
    "deadline": (pod("Failed", reason="DeadlineExceeded", message="Pod was active too long"), "DeadlineExceeded"),
    "deleted": ({"metadata": {"name": "p", "deletionTimestamp": "now"}, "status": {"phase": "Running"}}, "its pod was deleted"),
    "init": (
        {
            "metadata": {"name": "p"},
            "status": {
                "phase": "Pending",
                "initContainerStatuses": [{"name": "agent", "state": terminated(exitCode=1, message="no room")}],
            },
        },
        "its container agent ended with 1: no room",
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_how_a_pod_ended(how: str) -> None:
    status, reason = ENDS[how]
    found = condition.ended(status)
    assert found is not None
    assert found.reason.startswith(reason)
    assert not found.oom


def test_an_init_container_that_did_its_work_is_no_end() -> None:
    done = [{"name": "agent", "state": terminated(exitCode=0)}]
    assert condition.ended(pod(initContainerStatuses=done)) is None


def test_the_latest_event_is_the_last_word() -> None:
    events = [
        {"reason": "FailedCreate", "message": "exceeded quota", "lastTimestamp": "2026-01-01T00:00:02Z"},
        {"reason": "Old", "message": "x", "lastTimestamp": "2026-01-01T00:00:01Z"},
    ]
    assert condition.last_word(events) == "FailedCreate: exceeded quota"
    assert condition.last_word([]) == ""


async def ended_with(status: dict[str, Any]) -> list[Any]:
    """What a job's caller gets when its agent hangs up and the cluster shows this status."""
    wire, sighting = Wire(), Sighting()
    sandbox = PodSandbox(wire, READY, 1.0, 60.0, sighting)
    sighting.on_end = wire.fail
    sighting.see(status, gone=False)
    limits = Limits(wall_s=1, cpu_s=1, memory_bytes=1 << 20, processes=1, open_files=16, output_bytes=1, file_bytes=1, files=1)
    return [event async for event in sandbox.run(Job(id="j", tenant="t", lang="py", code="x"), bundled_languages()["py"], limits)]


async def test_a_container_that_ran_out_of_memory_is_a_result() -> None:
    (result,) = await ended_with(pod("Failed", terminated(exitCode=137, reason="OOMKilled")))
    assert isinstance(result, Result)
    assert (result.status, result.limit) == ("oom", "memory_bytes")
    assert "1048576 bytes" in result.reason


async def test_a_pod_that_was_evicted_is_a_lost_sandbox() -> None:
    with pytest.raises(SandboxLost, match="Evicted: low on memory"):
        await ended_with(pod("Failed", reason="Evicted", message="low on memory"))


async def test_the_first_end_is_the_one_that_counts() -> None:
    sighting = Sighting()
    sighting.see(pod("Failed", terminated(exitCode=137, reason="OOMKilled")), gone=False)
    sighting.see(pod("Failed", reason="NodeLost"), gone=True)
    assert await sighting.end() == End("all memory of its container was used up", "memory_bytes")


def test_a_daemon_is_dead_when_it_was_watched_for_long_and_never_renewed() -> None:
    sights = Sights(30)
    sights.see("a", "1", 0)
    sights.see("b", "1", 0)
    sights.see("a", "2", 20)
    sights.see("b", "1", 29)  # listed again, and not renewed
    assert sights.dead(29) == []
    assert sights.dead(30) == ["b"]
    sights.see("b", "", 31)
    assert sights.dead(49) == []
    assert sights.dead(50) == ["a"]


def test_nobody_died_while_the_api_was_away() -> None:
    sights = Sights(30)
    sights.see("a", "1", 0)
    sights.begin_anew()
    sights.see("a", "1", 100)  # from the list that follows
    assert sights.dead(100) == []
    assert sights.dead(129) == []
    assert sights.dead(130) == ["a"]
