"""Calls of tools as lines of JSON: what is a call, what is an answer, and how long one is waited for."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from runnerd import Conflict, Job, OverLimit, Rejected, Result, ToolCall, decode_event, encode
from runnerd.job import Limits
from runnerd.tools import NoCall, Tools, ToolSettings, read_call


class TestReading:
    def test_a_call(self) -> None:
        line = b' {"id": "a\\u00e9", "arguments": {"x": [1, 2e400, "\xc3\xa9"]}, "name": "add", "more": 1} '
        assert read_call(line, ("add",)) == ("add", '{"x": [1, 2e400, "é"]}', b'"a\\u00e9"')
        assert read_call(b'{"name":"add"}', ("add",)) == ("add", "{}", b"null")

    @pytest.mark.parametrize(
        ("line", "word"),
        [
            (b"", "not a call"),
            (b"garbage", "not a call"),
            (b"[]", "not a call"),
            (b"\xff\xfe", "not a call"),
            (b'{"name": "add", "arguments": {"x": "\xff"}}', "not a call"),
            (b'{"name": "add", "arguments": ' + b"[" * 100_000, "not a call"),
            (b'{"name": "add", "arguments": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not a call"),
            (b'{"name": "add"} {"name": "add"}', "not a call"),
            (b'{"name": "add", "arguments": [1]}', "arguments"),
            (b'{"name": "add", "arguments": "x"}', "arguments"),
            (b'{"name": "add", "id": {}}', "id"),
            (b'{"name": "add", "id": "' + b"x" * 200 + b'"}', "id"),
            (b'{"name": "sub"}', "there is no tool 'sub' for this job: there are add"),
        ],
    )
    def test_what_is_no_call(self, line: bytes, word: str) -> None:
        with pytest.raises(NoCall, match=word):
            read_call(line, ("add",))

    def test_a_call_is_an_event_on_every_wire(self) -> None:
        call = ToolCall(id="j", tenant="t", call="1", name="add", arguments='{"x": 1e999, "y": 123456789012345678901234567890}')
        for content_type in ("application/json", "application/msgpack"):
            assert decode_event(encode(call, content_type), content_type) == call


class TestAnswers:
    def tools(self, **settings: float) -> tuple[Tools, list[bytes]]:
        tools = Tools(Job(id="j", tenant="t", tools=("add",)), msgspec.convert(settings, ToolSettings))
        lines: list[bytes] = []
        tools.open(lines.append)
        return tools, lines

    async def test_in_any_order_each_once(self) -> None:
        tools, lines = self.tools()
        first, second = tools.heard(b'{"id":1,"name":"add"}'), tools.heard(b'{"id":"b","name":"add"}')
        assert first is not None
        assert second is not None
        assert tools.waiting() == [first, second]
        tools.answer(second.call, b'{\r\n "x": "a\\nb"\n}')
        tools.answer(first.call, b"no\xff\n", failed=True)
        assert [json.loads(line) for line in lines] == [{"id": "b", "result": {"x": "a\nb"}}, {"id": 1, "error": "no�\n"}]
        assert all(line.count(b"\n") == 1 for line in lines)
        with pytest.raises(Conflict):
            tools.answer(first.call, b"1")
        tools.fail(first.call, "late")
        assert len(lines) == 2

    async def test_an_answer_that_can_not_be_passed_on_leaves_the_call_open(self) -> None:
        tools, lines = self.tools(bytes=1024)
        call = tools.heard(b'{"name":"add"}')
        assert call is not None
        for wrong in (b"", b"x", b"NaN", b'"\xff"', b"[" * 1000, b"1 2"):
            with pytest.raises(Rejected, match="JSON"):
                tools.answer(call.call, wrong)
        with pytest.raises(OverLimit, match=r"tools\.bytes"):
            tools.answer(call.call, b'"' + b"x" * 1024 + b'"')
        assert lines == []
        tools.answer(call.call, b"1")
        assert lines == [b'{"id":null,"result":1}\n']

    async def test_a_line_in_pieces_and_one_that_is_too_long(self) -> None:
        tools, lines = self.tools()
        assert tools.heard(b'{"name":', more=True) is None
        assert tools.heard(b'"add"}') is not None
        assert tools.heard(b"x" * 10, more=True) is None
        assert tools.heard(b"", cut=True) is None
        assert b"tools.bytes" in lines[0]
        assert tools.heard(b'{"name":"add"}') is not None

    async def test_nobody_waits_once_the_program_has_ended(self) -> None:
        tools, lines = self.tools(answer_s=0.001)
        call = tools.heard(b'{"name":"add"}')
        assert call is not None
        tools.close()
        with pytest.raises(Conflict):
            tools.answer(call.call, b"1")
        await asyncio.sleep(0.01)  # its deadline
        assert lines == []


@pytest.mark.parametrize("level", ["strong", "userns", "landlock", "process"])
async def test_at_every_level(executor_at: Any, languages: Any, level: str) -> None:
    executor = await executor_at(level)
    job = Job(id="j", tenant="t", lang="py", code="from runnerd_tools import call\nprint(call('add', a=1, b=2))", tools=("add",))
    limits = Limits(
        wall_s=20, cpu_s=20, memory_bytes=256 << 20, processes=64, open_files=64, output_bytes=4096, file_bytes=1 << 20, files=1
    )
    tools = Tools(job, ToolSettings())
    async with executor.sandbox(languages["py"]) as sandbox:
        async for event in sandbox.run(job, languages["py"], limits, None, None, tools):
            if isinstance(event, ToolCall):
                tools.answer(event.call, b"3")
    assert isinstance(event, Result)
    assert (event.status, event.stdout) == ("ok", "3\n"), event
