"""What the agent measured, as the status of a result."""

import pytest

from runnerd import Job, Limits, Result, SandboxInfo, SandboxLost
from runnerd.executors.outcome import Outcome

LIMITS = Limits(wall_s=2, cpu_s=1, memory_bytes=1000, processes=8, open_files=16, output_bytes=100, file_bytes=50, files=2)
INFO = SandboxInfo(executor="local", level="strong", warm=True)


def result_of(**measured: object) -> Result:
    outcome = Outcome(Job(id="j", lang="py", code=""), LIMITS, INFO)
    ended = {
        "type": "ended",
        "stage": "run",
        "exit_code": 0,
        "signal": None,
        "cause": "",
        "detail": "",
        "wall_ms": 1.0,
        "cpu_ms": 1.0,
        "memory_bytes": 1,
        "written": {"stdout": 0, "stderr": 0},
        "oom_kills": 0,
        "refused": 0,
    }
    outcome.feed({"type": "started", "stage": "run", "after_ms": 0.5}, b"")
    outcome.feed({**ended, **measured}, b"")
    return outcome.result()


@pytest.mark.parametrize(
    ("measured", "status", "limit"),
    [
        ({}, "ok", None),
        ({"exit_code": 3}, "failed", None),
        ({"exit_code": None, "signal": 9}, "failed", None),
        ({"exit_code": None, "signal": 9, "oom_kills": 1}, "oom", "memory_bytes"),
        ({"exit_code": 0, "oom_kills": 1}, "oom", "memory_bytes"),
        ({"exit_code": None, "signal": 24}, "limit", "cpu_s"),
        ({"exit_code": None, "signal": 9, "cpu_ms": 1500.0}, "limit", "cpu_s"),
        ({"exit_code": None, "signal": 25}, "limit", "file_bytes"),
        ({"exit_code": 1, "refused": 4}, "limit", "processes"),
        ({"exit_code": 0, "refused": 4}, "ok", None),
        ({"exit_code": None, "signal": 9, "cause": "timeout"}, "timeout", "wall_s"),
        ({"exit_code": None, "signal": 9, "cause": "timeout", "refused": 4}, "limit", "processes"),
        ({"exit_code": None, "signal": 9, "cause": "output"}, "limit", "output_bytes"),
        ({"exit_code": None, "signal": 9, "cause": "memory"}, "oom", "memory_bytes"),
        ({"exit_code": 125, "cause": "workspace"}, "limit", "workspace_bytes"),
        ({"exit_code": 125, "cause": "start", "detail": "no gcc"}, "dead", None),
    ],
)
def test_status(measured: dict[str, object], status: str, limit: str | None) -> None:
    result = result_of(**measured)
    assert (result.status, result.limit) == (status, limit)
    assert bool(result.reason) == (status != "ok" and not (status == "failed" and result.signal is None))


def test_a_file_that_breaks_off_is_none() -> None:
    outcome = Outcome(Job(id="j", lang="py", code=""), LIMITS, INFO)
    outcome.feed({"type": "file", "name": "a", "more": True}, b"12")
    outcome.feed({"type": "file", "cut": True}, b"")
    outcome.feed({"type": "file", "name": "b"}, b"34")
    assert [(file.name, file.content) for file in outcome._files] == [("b", b"34")]


OUTPUT = {"type": "output", "stage": "run", "stream": "stdout"}


@pytest.mark.parametrize(
    ("header", "body", "most"),
    [
        (OUTPUT, bytes(20), 4 * 100 + 4 * 50),
        ({"type": "file", "name": "a", "more": True}, bytes(20), 4 * 100 + 4 * 50),
        ({"type": "file", "name": "a"}, b"", 20 * 3),
        ({"type": "skipped", "name": "a", "reason": "r"}, b"", 20 * 1001),
    ],
)
def test_an_agent_that_sends_more_than_a_job_may_have_is_lost(header: dict[str, object], body: bytes, most: int) -> None:
    outcome = Outcome(Job(id="j", lang="py", code=""), LIMITS, INFO)
    for _ in range(most // 20):
        outcome.feed(header, body)
    with pytest.raises(SandboxLost, match="more than the job may"):
        outcome.feed(header, body)
