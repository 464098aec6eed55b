"""What becomes of a message whose job has ended: its result in the stream, the reply, a dead letter, and the ack, in this order."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import msgspec

from runnerd import TOKEN, Result, RunnerdError, Services, decode_result, spill_result, without_output

from ..bus import Bus
from ..connection import NoAnswer
from ..reply import MARGIN, Reply, heading, size_of
from ..request import job_id
from ..stream import Stream
from .api import Api, ApiError
from .asked import Asked
from .hands import Hands, Held
from .message import address
from .topology import DEAD, RESULTS, Topology

_PAUSE_S, _PAUSE_MOST_S = 0.2, 10.0
_POISON = ("rejected", "dead")
"""Results of jobs that no repetition helps; the server tells its operators of them."""


class _Once:
    """Something that is due, or is not, and is done once: what is cut short is still due."""

    def __init__(self, act: Callable[[], Awaitable[object]], *, due: bool) -> None:
        self._act = act
        self._due = due

    async def __call__(self) -> None:
        if self._due:
            await self._act()
            self._due = False


class Outcomes:
    """Publishes results. The record in the store has each of them already, so all that is done here may be done again."""

    def __init__(self, bus: Bus, services: Services, api: Api, hands: Hands, topology: Topology) -> None:
        self._bus = bus
        self._services = services
        self._api = api
        self._hands = hands
        self._topology = topology
        self.statuses: dict[str, int] = {}
        """Results by status."""

    def refused(self, held: Held, headers: dict[str, str], reason: str) -> Result:
        """The result of a message that is no job, as far as it says whose."""
        tokens = held.msg.subject[len(self._bus.subjects.prefix) + 1 :].split(".")[1:]
        tenant, _, lang, name = [*tokens, "", "", "", ""][:4]
        found = next((each for each in (name, job_id(headers)) if TOKEN.fullmatch(each)), held.origin.id)
        return Result(id=found, tenant=tenant[:64], lang=lang[:64], status="rejected", reason=reason)

    async def publish(self, held: Held, headers: dict[str, str], result: Result, *, asked: Asked | None, stream: Stream | None) -> None:
        """Tell everybody, and have the message forgotten. Waits for the server as long as it takes."""
        asked_ttl, quiet = (asked.result_ttl, asked.output == "none") if asked else ("", False)
        self.statuses[result.status] = self.statuses.get(result.status, 0) + 1
        to = headers.get("rd-reply-to") or headers.get("reply_to") or ""
        # behind its output, where there was some
        reply = Reply(to, self._bus.streams if stream else self._bus.main, self._bus.counters, headers)
        reply.came = held.came
        subject = f"{self._bus.subjects.prefix}.res.{result.tenant}.{result.id}"
        own = await self._own(result)
        if quiet:
            result = without_output(result)
        if own:
            result = await self._fitting(subject, result, reply)
        body, out = reply.message(result, more=stream.result_headers() if stream else {})
        told = _Once(lambda: reply.connection.publish(to, body, out), due=bool(to) and not self._bus.forbidden(held.msg, to))
        if own:
            # one name per end of the job: a copy that was published already, by whomever, is known again
            kept = out | {"Nats-Msg-Id": f"{result.tenant}.{result.id}.{result.status}"} | ({"Nats-TTL": asked_ttl} if asked_ttl else {})
            await self._until_done(lambda: self._copy(subject, body, kept, told))
        if result.status == "dead":
            await self._until_done(lambda: self._letter(held, result))
        await told()
        await self._hands.done(held, poison=heading(result.reason) if result.status in _POISON else "")

    async def _own(self, result: Result) -> bool:
        """Whether this is the result of the job of this name, and not the refusal of another one that took its name."""
        if not TOKEN.fullmatch(result.tenant):
            return False
        return result.status != "rejected" or await self._services.status(result.tenant, result.id) in (None, result)

    async def _copy(self, subject: str, body: bytes, headers: dict[str, str], told: "_Once") -> None:
        """Publish the result, unless it is there. Who asked for it is told right behind: it stands, whatever becomes of this copy."""
        try:
            await self._api.publish(subject, body, headers, meanwhile=told)
        except ApiError as error:
            if not error.taken:
                raise
            await self._replace(subject, body, headers)

    async def _replace(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        """What is there is this result, or the refusal of what came under this name before it was a job."""
        name = self._topology.stream(RESULTS)
        standing = await self._api.last(name, subject)
        if standing is not None and standing.headers.get("Rd-Status") == "rejected" != headers["Rd-Status"]:
            await self._api.delete(name, standing.seq)
            await self._api.publish(subject, body, headers)

    async def _letter(self, held: Held, result: Result) -> None:
        """Keep the job with the reason why it could not be run, so that it can be looked at and run again."""
        where = address(held.msg.subject, self._bus.subjects.prefix)
        told = {
            "Nats-Msg-Id": f"{result.tenant}.{result.id}.dead",
            "Rd-Job-Id": result.id,
            "Rd-Dead-Reason": heading(result.reason),
            "Rd-Attempts": str(result.starts),
            "Rd-Subject": held.msg.subject,
            "Rd-Stream-Seq": str(held.origin.seq),
        }
        ours = {name.lower() for name in told}
        sent = (held.msg.headers or {}).items()
        headers = {name: value for name, value in sent if name.lower() not in ours and not name.lower().startswith("nats-")} | told
        body = held.msg.data or b""
        if size_of(headers) + len(body) + MARGIN > self._bus.main.max_payload:
            headers, body = told | {"Rd-Left-Out": "headers and body: too large with the reason"}, b""
        subject = f"{self._bus.subjects.prefix}.dead.{where.tenant}.{where.cls}.{where.lang}"
        await self._api.publish(subject, body, headers)
        self._bus.counters.count("dead_letters", job=result.id, stream=self._topology.stream(DEAD), reason=result.reason)

    async def _fitting(self, subject: str, result: Result, reply: Reply) -> Result:
        """The result as a message takes it: as it was published before, else with what is too large stored in a session."""
        sessions = self._services.sessions
        if sessions is None or reply.fits(result):
            return result
        with contextlib.suppress(NoAnswer, ApiError, msgspec.DecodeError):
            standing = await self._api.last(self._topology.stream(RESULTS), subject)
            if standing is not None and standing.headers.get("Rd-Status") == result.status:
                return decode_result(standing.body, standing.headers.get("Content-Type", ""))
        try:
            return await spill_result(result, reply.fits, sessions)
        except RunnerdError as error:
            self._bus.counters.count("spills_failed", job=result.id, cause=str(error))
            return result  # then it is cut

    async def _until_done(self, act: Callable[[], Awaitable[None]]) -> None:
        pause_s = _PAUSE_S
        while True:
            try:
                await act()
            except (NoAnswer, ApiError) as error:
                self._bus.counters.count("publishes_failed", cause=str(error))
            else:
                return
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads many daemons, guards nothing
            pause_s = min(pause_s * 2, _PAUSE_MOST_S)
