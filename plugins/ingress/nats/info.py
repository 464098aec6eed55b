"""Questions about this daemon: its languages, its limits, the schema of its messages, and all its addresses."""

from collections.abc import Awaitable, Callable
from typing import Any

from nats.aio.msg import Msg

from runnerd import Services, json_schema

from .answers import LanguageInfo, LimitsInfo
from .bus import Bus
from .endpoint import Endpoint
from .refusal import BAD_REQUEST, Refusal
from .request import folded


class Info:
    """Answers `langs`, `schema`, `asyncapi` and `limits`."""

    def __init__(self, bus: Bus, services: Services, *, endpoint: Endpoint, body_bytes: int) -> None:
        self._bus = bus
        self._services = services
        self._endpoint = endpoint
        self._body_bytes = body_bytes
        self._answers: dict[str, Callable[[], Awaitable[object]]] = {
            "langs": self._langs,
            "schema": self._schema,
            "asyncapi": services.asyncapi,
            "limits": self._limits,
        }

    async def receive(self, msg: Msg) -> None:
        """Take a question off the bus, and answer it."""
        reply = self._bus.reply(msg, folded(msg.headers))
        if reply is None:
            return
        began = self._endpoint.begin()
        what = self._bus.subjects.tokens(msg.subject)[0]
        answer = self._answers.get(what)
        if answer is None:
            error = await reply.refuse(Refusal(BAD_REQUEST, f"{what[:80]!r} is not known: use {', '.join(self._answers)}"))
        else:
            error = await reply.data("info", await answer())
        self._endpoint.end(began, error)

    async def _langs(self) -> list[LanguageInfo]:
        return [
            LanguageInfo(code=lang.code, name=lang.name, aliases=lang.aliases, suffixes=lang.suffixes, filename=lang.filename)
            for _, lang in sorted(self._services.languages.items())
        ]

    async def _schema(self) -> dict[str, Any]:
        return json_schema()

    async def _limits(self) -> LimitsInfo:
        max_payload = self._bus.main.max_payload
        return LimitsInfo(
            max_payload=max_payload,
            body_bytes=min(self._body_bytes, max_payload),
            reply_prefixes=self._bus.subjects.reply_prefixes,
        )
