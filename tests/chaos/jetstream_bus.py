"""NATS with JetStream."""

import asyncio
import itertools
import json
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from runnerd_plugins.stores.memory import Memory

from chaos.bus import TENANT, Answer, Away, Sending
from chaos.schedule import LEASE_S
from jetstream import Durable
from nats_fixture import NatsServer, nats_client, nats_server
from runnerd import Job, Result, decode_result, encode

CONSUMERS = ("RD_JOBS.rd-hi", "RD_JOBS.rd-std", "RD_JOBS.rd-low", "RD_LATER.rd-due")
ASK_S = 5.0
IN_PARTS = 5
"""One job in so many has its body stored in parts."""


class JetStreamBus:
    kind = "nats"
    sure = False
    """What goes to an inbox while the server is away is lost; the result is in its stream."""

    def __init__(self, server: NatsServer, client: Client, durable: Durable) -> None:
        self.port = server.port
        self.answers: list[Answer] = []
        self.events = 0
        self.sent: set[str] = set()
        self._server = server
        self._client = client
        self._durable = durable
        self._inbox = client.new_inbox()
        self._copies = itertools.count()
        self._reading = asyncio.Event()
        self._reading.set()

    def flags(self, port: int) -> tuple[str, ...]:
        of = "ingress.nats"
        durable = {"streams": "ensure", "ack_wait_s": LEASE_S, "again_s": 0.1, "again_most_s": 1, "answer_s": 1}
        return (
            f"{of}.url=nats://127.0.0.1:{port}",
            f"{of}.rebuild_s=0.5",
            f"{of}.drain_s=20",
            *(f"{of}.jetstream.{name}={value}" for name, value in durable.items()),
        )

    async def listen(self) -> None:
        await self._client.subscribe(f"{self._inbox}.>", cb=self._answer)
        await self._client.subscribe("rd.v1.evt.>", cb=self._event)
        await self._client.flush()

    async def _answer(self, msg: Msg) -> None:
        await self._reading.wait()
        name = msg.subject.removeprefix(f"{self._inbox}.")
        self.answers.append(Answer(_result(msg), cast(Sending, name.partition("-")[0]), name, time.monotonic()))

    async def _event(self, _: Msg) -> None:
        await self._reading.wait()
        self.events += 1

    async def start(self) -> None:
        await self._server.start()

    async def kill(self) -> None:
        await self._server.kill()

    async def submit(self, job: str, code: str, sending: Sending, *, streams: bool = False) -> None:
        output = "events" if streams else "inline"
        name = (
            f"{sending}-{job}" if sending == "first" else f"{sending}-{job}-{next(self._copies)}"
        )  # the first one is sent until it is there
        to = f"{self._inbox}.{name}"
        try:
            if sending != "other" and zlib.crc32(job.encode()) % IN_PARTS == 0:
                ack = await self._in_parts(code, job, {"Nats-Msg-Id": name, "Rd-Reply-To": to, "Rd-Output": output})
            else:
                ack = await self._durable.submit(code, job, tenant=TENANT, nats_msg_id=name, rd_reply_to=to, rd_output=output)
        except (NatsError, OSError, TimeoutError, KeyError) as error:  # the last: of a server that refused a part
            raise Away(str(error)) from error
        if "seq" not in ack:
            raise Away(str(ack))
        self.sent.add(name)

    async def _in_parts(self, code: str, job: str, headers: dict[str, str]) -> dict[str, Any]:
        body = encode(Job(code=code))
        headers |= {"Rd-Job-Id": job, **await self._durable.store(body, job, size=len(body) // 2, tenant=TENANT)}
        return await self._durable.send(f"rd.v1.job.{TENANT}.std.py", b"", headers)

    async def cancel(self, job: str) -> Result | None:
        answer = await self._ask(job, "cancel")
        return answer if isinstance(answer, Result) else None

    async def status(self, job: str) -> Result | str | None:
        return await self._ask(job, "status")

    async def _ask(self, job: str, verb: str) -> Result | str | None:
        try:
            msg = await self._client.request(f"rd.v1.ctl.{TENANT}.{job}.{verb}", b"", timeout=ASK_S)
        except (NatsError, OSError, TimeoutError) as error:
            raise Away(str(error)) from error
        headers = msg.headers or {}
        if headers.get("Rd-Kind") == "result":
            return _result(msg)
        if headers.get("Nats-Service-Error-Code") == "404":
            return None
        if headers.get("Rd-Kind") == "status":
            return str(json.loads(msg.data)["state"])
        raise Away(f"{headers} {msg.data[:200]!r}")

    def slow(self, on: bool) -> None:
        if on:
            self._reading.clear()
        else:
            self._reading.set()

    async def published(self, jobs: list[str]) -> dict[str, Result]:
        found = {job: await self._durable.stored(f"rd.v1.res.{TENANT}.{job}") for job in jobs}
        return {job: _result(msg) for job, msg in found.items() if msg is not None}

    async def left(self) -> dict[str, int]:
        left = {name: await self._durable.messages(name) for name in ("RD_JOBS", "RD_LATER")}
        for consumer in CONSUMERS:
            info = await self._durable.api(f"CONSUMER.INFO.{consumer}")
            left |= {f"{consumer} {what}": info[what] for what in ("num_pending", "num_ack_pending")}
        return {name: count for name, count in left.items() if count}

    async def letters(self) -> dict[str, str]:
        found: dict[str, str] = {}
        last = (await self._durable.api("STREAM.INFO.RD_DEAD"))["state"]["last_seq"]
        for seq in range(1, last + 1):
            msg = await self._client.request("$JS.API.DIRECT.GET.RD_DEAD", json.dumps({"seq": seq}).encode(), timeout=ASK_S)
            headers = msg.headers or {}
            found[headers["Rd-Job-Id"]] = headers.get("Rd-Dead-Reason", "")
        return found

    async def collected(self) -> None:
        await self._client.flush()

    async def redelivered(self) -> int:
        info = await self._durable.api("CONSUMER.INFO.RD_JOBS.rd-std")
        return int(info["delivered"]["consumer_seq"] - info["delivered"]["stream_seq"])


def _result(msg: Msg) -> Result:
    return decode_result(msg.data, (msg.headers or {}).get("Content-Type", ""))


@asynccontextmanager
async def jetstream_bus(directory: Path) -> AsyncIterator[JetStreamBus]:
    store = {"jetstream": {"store_dir": str(directory / "jetstream")}}
    async with (
        nats_server(directory / "server", **store) as server,
        nats_client(server.url) as client,
        Memory().open_kv() as kv,
    ):
        bus = JetStreamBus(server, client, Durable(directory, server, client, kv))
        await bus.listen()
        yield bus
