"""Calls of tools: what a program may ask of whoever submitted it, in real sandboxes; what hostile programs make of it harms nobody."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hosting import hosted
from runnerd import Conflict, Event, Job, NotFound, OverLimit, Rejected, Result, ToolCall
from runnerd.config import load_config
from runnerd.daemon import Daemon, open_daemon
from runnerd.job import Limits
from runnerd.plugins import find_plugins

Answer = Callable[[ToolCall, Daemon], Any]


@asynccontextmanager
async def daemon_with(directory: Path, *flags: str) -> AsyncIterator[Daemon]:
    plugins = find_plugins()
    common = (f"state_dir={directory}", "ingress.nats.enabled=false", "ingress.http.enabled=false", "isolation.minimum=process")
    settings = load_config(plugins, flags=[*common, *flags], environ={}, directory=directory).settings
    only = msgspec.structs.replace(plugins, languages={code: plugins.languages[code] for code in ("py", "bash", "c")})
    async with open_daemon(settings, only) as opened:
        yield opened


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    async with hosted(daemon_with(tmp_path_factory.mktemp("tools"), "tools.calls=200", "tools.open=8", "tools.bytes=100000")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
async def hasty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """Waits for no answer."""
    flags = ("tools.answer_s=0.2", "tools.wait_s=0.5")
    async with hosted(daemon_with(tmp_path_factory.mktemp("hasty"), *flags)) as daemon:
        yield daemon


async def answered(daemon: Daemon, job: Job, answer: Answer | None = None) -> tuple[Result, list[Event]]:
    """Run a job whose calls are answered; its result, and its events."""
    events: list[Event] = []
    async for event in daemon.submit(job):
        events.append(event)
        if isinstance(event, ToolCall):
            assert event.name in job.tools
            if answer is not None:
                await answer(event, daemon)
    assert isinstance(events[-1], Result)
    return events[-1], events


async def add(call: ToolCall, daemon: Daemon) -> None:
    arguments = json.loads(call.arguments)
    if call.name == "add":
        await daemon.answer(call.tenant, call.id, call.call, json.dumps(arguments["a"] + arguments["b"], indent=1).encode())
    else:
        await daemon.answer(call.tenant, call.id, call.call, "it broke: €".encode(), failed=True)


def python(code: str, **fields: Any) -> Job:
    return Job(**{"lang": "py", "code": code, "tools": ("add", "break"), **fields})


CALLS = """
import asyncio
from runnerd_tools import ToolError, call, call_async

print(call("add", a=1, b=2), call("add", a=[1], b=["é"]))
for name in ("break", "steal"):
    try:
        call(name)
    except ToolError as error:
        print(error)

async def main():
    print(sum(await asyncio.gather(*(call_async("add", a=i, b=i) for i in range(100)))))

asyncio.run(main())
"""


async def test_a_program_in_python(daemon: Daemon) -> None:
    result, events = await answered(daemon, python(CALLS), add)
    lines = ["3 [1, 'é']", "it broke: €", "there is no tool 'steal' for this job: there are add, break", "9900", ""]
    assert (result.status, result.stdout.split("\n")) == ("ok", lines), result
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert len({call.call for call in calls}) == len(calls) == 103


THREADS = """
import concurrent.futures
from runnerd_tools import call
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    print(sum(pool.map(lambda i: call("add", a=i, b=0), range(60))))
"""


async def test_threads_may_call_at_once(daemon: Daemon) -> None:
    result, _ = await answered(daemon, python(THREADS), add)
    assert (result.status, result.stdout) == ("ok", "1770\n"), result


BASH = """
for i in 1 2 3; do
  echo "{\\"id\\": $i, \\"name\\": \\"add\\", \\"arguments\\": {\\"a\\": $i, \\"b\\": 1}}" >&8
  read -r answer <&9
  echo "$answer"
done
echo '{"name": "break"}' > "/dev/fd/$RUNNERD_CALLS"
head -n 1 < "/dev/fd/$RUNNERD_ANSWERS"
"""
C = r"""
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    FILE *calls = fdopen(atoi(getenv("RUNNERD_CALLS")), "w"), *answers = fdopen(atoi(getenv("RUNNERD_ANSWERS")), "r");
    char line[100];
    fputs("{\"id\": 7, \"name\": \"add\", \"arguments\": {\"a\": 40, \"b\": 2}}\n", calls);
    fflush(calls);
    fputs(fgets(line, sizeof line, answers), stdout);
    return 0;
}
"""


async def test_programs_in_any_language(daemon: Daemon) -> None:
    result, _ = await answered(daemon, python(BASH, lang="bash"), add)
    expected = ['{"id":1,"result":2}', '{"id":2,"result":3}', '{"id":3,"result":4}', '{"id":null,"error":"it broke: €"}', ""]
    assert (result.status, result.stdout.split("\n")) == ("ok", expected), result
    result, _ = await answered(daemon, python(C, lang="c"), add)
    assert (result.status, result.stdout) == ("ok", '{"id":7,"result":42}\n'), result


async def test_what_was_written_before_a_call_comes_before_it(daemon: Daemon) -> None:
    code = "import os\nfrom runnerd_tools import call\nos.write(1, b'first')\ncall('add', a=1, b=1)\nos.write(1, b'then')"
    _, events = await answered(daemon, python(code, stream=True), add)
    names = [type(event).__name__ for event in events]
    assert names == ["Started", "Output", "ToolCall", "Output", "Result"]


async def test_large_arguments_and_answers(daemon: Daemon) -> None:
    async def long(call: ToolCall, daemon: Daemon) -> None:
        await daemon.answer(call.tenant, call.id, call.call, json.dumps(json.loads(call.arguments)["a"][::-1]).encode())

    code = "from runnerd_tools import call\ntext = 'ab' * 49_000\nprint(call('add', a=text) == text[::-1])"
    result, _ = await answered(daemon, python(code), long)
    assert (result.status, result.stdout) == ("ok", "True\n"), result
    code = (
        "from runnerd_tools import ToolError, call\n"
        "for size in (100_000, 5_000_000):\n"
        "    try: call('add', a='x' * size)\n"
        "    except ToolError as error: print(error)\n"
        "print(call('add', a='ok'))"
    )
    result, events = await answered(daemon, python(code), long)
    assert "tools.bytes" in result.stdout
    assert len(events) <= 2


async def test_nobody_answers(hasty: Daemon) -> None:
    code = "from runnerd_tools import ToolError, call\ntry: call('add', a=1)\nexcept ToolError as error: print(error)\nprint('on')"
    result, events = await answered(hasty, python(code))
    assert (result.status, result.stdout) == ("ok", "nobody answered within 0.2 s (tools.answer_s)\non\n"), result
    call = events[0]
    assert isinstance(call, ToolCall)
    with pytest.raises(Conflict, match="has ended"):
        await hasty.answer(call.tenant, call.id, call.call, b"1")


async def test_nobody_listens(daemon: Daemon) -> None:
    code = "from runnerd_tools import ToolError, call\ninput()\ntry: call('add', a=1)\nexcept ToolError as error: print(error)"
    job = python(code, id="alone", tenant="acme", interactive=True, stream=True)
    events = daemon.submit(job)
    await anext(events)
    await events.aclose()
    await daemon.feed("acme", "alone", b"\n", end=True)
    while not isinstance(result := await daemon.status("acme", "alone"), Result):
        await asyncio.sleep(0.01)
    assert result.stdout == "nobody hears it: whoever submitted the job is gone, or too slow\n"


async def test_who_joins_later_hears_of_calls_that_are_open(daemon: Daemon) -> None:
    job = python("from runnerd_tools import call\nprint(call('add', a=1, b=2))", id="joined", tenant="acme")
    first = daemon.submit(job)
    call = await anext(first)
    assert isinstance(call, ToolCall)
    second = daemon.submit(job)
    assert await anext(second) == call
    await add(call, daemon)
    with pytest.raises(Conflict):
        await add(call, daemon)
    for events in (first, second):
        (result,) = [event async for event in events]
        assert isinstance(result, Result)
        assert result.stdout == "3\n"


async def test_wall_time_stands_still_while_an_answer_is_waited_for(daemon: Daemon) -> None:
    async def slow(call: ToolCall, daemon: Daemon) -> None:
        await asyncio.sleep(3.5)
        await add(call, daemon)

    job = python("from runnerd_tools import call\nprint(call('add', a=1, b=2))", limits=Limits(wall_s=3))
    result, _ = await answered(daemon, job, slow)
    assert (result.status, result.stdout) == ("ok", "3\n"), result
    assert result.usage.ran_ms > 3000


async def test_but_not_for_ever(hasty: Daemon) -> None:
    code = (
        "from runnerd_tools import ToolError, call\n"
        "while True:\n"
        "    try: call('add', a=1)\n"
        "    except ToolError as error: print(error, flush=True)"
    )
    result, _ = await answered(hasty, python(code, limits=Limits(wall_s=1)))
    assert result.status == "timeout", result


async def test_refusals(daemon: Daemon) -> None:
    job = python("from runnerd_tools import call\nprint(call('add', a=1, b=2))", id="refusals", tenant="acme")
    events = daemon.submit(job)
    call = await anext(events)
    assert isinstance(call, ToolCall)
    with pytest.raises(NotFound):
        await daemon.answer("other", call.id, call.call, b"1")
    with pytest.raises(NotFound):
        await daemon.answer("acme", "unknown", call.call, b"1")
    with pytest.raises(Conflict):
        await daemon.answer("acme", call.id, "999", b"1")
    with pytest.raises(OverLimit):
        await daemon.answer("acme", call.id, call.call, b'"' + b"x" * 100_000 + b'"')
    with pytest.raises(Rejected):
        await daemon.answer("acme", call.id, call.call, b"nonsense")
    with pytest.raises(Rejected, match="interactive"):
        await daemon.feed("acme", call.id, b"x")
    await add(call, daemon)
    (result,) = [event async for event in events]
    assert isinstance(result, Result)
    assert result.stdout == "3\n"
    with pytest.raises(Conflict, match="has ended"):
        await daemon.answer("acme", call.id, call.call, b"1")


async def test_a_job_without_tools(daemon: Daemon) -> None:
    code = (
        "import os\nfrom runnerd_tools import ToolError, call\n"
        "try: call('add', a=1)\nexcept ToolError as error: print(error)\n"
        "for fd in (8, 9):\n"
        "    try: os.fstat(fd)\n"
        "    except OSError: print('closed')\n"
        "print('RUNNERD_CALLS' in os.environ)"
    )
    result, events = await answered(daemon, python(code, tools=()))
    why = "this job may call no tools: whoever submits it names them in its field `tools`"
    assert (result.stdout.split("\n"), len(events)) == ([why, "closed", "closed", "False", ""], 1), result


async def test_a_process_that_was_forked_is_told(daemon: Daemon) -> None:
    code = (
        "import os\nfrom runnerd_tools import ToolError, call\nprint(call('add', a=1, b=2), flush=True)\n"
        "if os.fork() == 0:\n"
        "    try: call('add', a=1, b=2)\n"
        "    except ToolError as error: print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\nprint(call('add', a=3, b=4))"
    )
    result, _ = await answered(daemon, python(code), add)
    assert result.stdout == "3\nonly the process that has begun to call tools may go on with it: answers come to one\n7\n", result


async def test_a_cancelled_call_is_no_harm(daemon: Daemon) -> None:
    code = (
        "import asyncio\nfrom runnerd_tools import call_async\n"
        "async def main():\n"
        "    task = asyncio.ensure_future(call_async('add', a=1, b=2))\n"
        "    await asyncio.sleep(0)\n"
        "    task.cancel()\n"
        "    print(await call_async('add', a=3, b=4))\n"
        "asyncio.run(main())"
    )
    result, _ = await answered(daemon, python(code), add)
    assert (result.status, result.stdout) == ("ok", "7\n"), result


@pytest.mark.parametrize("tools", [("",), ("x\n",), ("x", "x"), ("x" * 300,), tuple(map(str, range(2000)))])
async def test_names_that_no_job_may_give(daemon: Daemon, tools: tuple[str, ...]) -> None:
    (result,) = [event async for event in daemon.submit(Job(lang="py", code="1", tools=tools))]
    assert isinstance(result, Result)
    assert (result.status, result.reason[:5]) == ("rejected", "tools")


HOSTILE = {
    "garbage": r"""
os.write(8, os.urandom(60_000) + b"\n")
print(os.read(9, 1000))
""",
    "a million lines": r"""
try:
    while True:
        os.write(8, b"\n" * 4096)
except BrokenPipeError:
    print("no more")
""",
    "a million calls": r"""
import threading
threading.Thread(target=lambda: [None for _ in open(9)], daemon=True).start()
try:
    while True:
        os.write(8, b'{"name": "steal"}\n' * 100)
except BrokenPipeError:
    print("no more")
""",
    "an endless line": r"""
for _ in range(500):
    os.write(8, b"x" * 100_000)
""",
    "no end of a line": r"""
os.write(8, b'{"name": ')
""",
    "closed": r"""
os.close(8)
os.close(9)
""",
    "answers never read": r"""
os.write(8, b'{"name": "add", "arguments": {"a": 1, "b": 2}}\n' * 150)
""",
    "deep": r"""
os.write(8, b'{"name": "add", "arguments": ' + b"[" * 50_000 + b"\n")
print(os.read(9, 1000))
""",
    "frames of the agent's": r"""
import struct
head = b'{"type":"call"}'
os.write(3, struct.pack("!II", len(head), 0) + head)
""",
}


@pytest.mark.parametrize("code", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_programs(daemon: Daemon, code: str) -> None:
    """Each ends by itself, and the next job finds nothing of it."""

    async def lenient(call: ToolCall, daemon: Daemon) -> None:
        with suppress(Conflict):  # it did not wait
            await add(call, daemon)

    result, _ = await answered(daemon, python("import os\n" + code, limits=Limits(wall_s=20)), lenient)
    assert result.status in ("ok", "failed"), result
    assert "Traceback" not in result.stderr, result
    result, _ = await answered(daemon, python("from runnerd_tools import call\nprint(call('add', a=1, b=2))"), add)
    assert (result.status, result.stdout) == ("ok", "3\n"), result


async def test_more_calls_than_a_job_may_make(daemon: Daemon) -> None:
    code = (
        "from runnerd_tools import ToolError, call\n"
        "try:\n"
        "    for i in range(1000): call('add', a=i, b=0)\n"
        "except ToolError as error: print(i, error)\n"
        "try: call('add', a=1, b=0)\nexcept ToolError as error: print(error)"
    )
    result, _ = await answered(daemon, python(code), add)
    reason = "a job may call tools 200 times (tools.calls)"
    assert (result.status, result.stdout) == ("ok", f"200 {reason}\n{reason}\n"), result


@pytest.mark.parametrize("reuse", ["job", "session"])
async def test_sessions(tmp_path: Path, reuse: str) -> None:
    """Variables survive, what was imported among them, and each job calls by descriptors of its own, in the same interpreter too."""
    flags = ("pool.kept=2", f"languages.py.reuse={reuse}", 'isolation.reuse=["session"]')
    async with daemon_with(tmp_path, *flags) as daemon:
        first, _ = await answered(daemon, python("from runnerd_tools import call\nx = call('add', a=1, b=2)", session=""), add)
        assert first.status == "ok", first
        for number in range(3):
            code = f"x = call('add', a=x, b={number})\nprint(x)"
            more, _ = await answered(daemon, python(code, session=first.session), add)
            assert (more.status, more.stdout) == ("ok", f"{(3, 4, 6)[number]}\n"), more
            code = "try: call('add')\nexcept Exception as error: print(error)"
            none, _ = await answered(daemon, python(code, session=first.session, tools=()))
            assert "may call no tools" in none.stdout, none
        assert none.sandbox is not None
        assert (none.sandbox.reuse, none.sandbox.served > 0) == (reuse, reuse == "session"), none
