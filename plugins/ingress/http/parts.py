"""A multipart body (RFC 7578) part by part, as it arrives: nothing of a file is held."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from .exec import Malformed

FIELD_BYTES = 4096
"""Longest value of a field that is no file."""
MOST_PARTS = 1000


class Parts:
    """The parts of a request's body. A file's content is read, or skipped, before the next part comes."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        """Raises Malformed where the body is not multipart."""
        media, options = parse_options_header(content_type)
        if media != "multipart/form-data" or not options.get("boundary"):
            raise Malformed("the body must be multipart/form-data with a boundary, and a part named file")
        self.fields: dict[str, str] = {}
        """Values of the fields that came so far; a later one of the same name replaces the one before."""
        self._parser = PushMultipartParser(options["boundary"], max_segment_count=MOST_PARTS)
        self._body = body
        self._events: Iterator[MultipartSegment | bytearray | None] = iter(())

    async def files(self) -> AsyncGenerator["Part", None]:
        """Each part that is a file. Raises Malformed."""
        while (event := await self._next()) is not None:
            assert isinstance(event, MultipartSegment)
            part = Part(event, self)
            if event.filename is None:
                self.fields[event.name] = await part.text()
                continue
            yield part
            await part.skip()

    async def _next(self) -> MultipartSegment | bytearray | None:
        """The next event of the parser; None at the end of a part, or of the body where no part is open."""
        while True:
            try:
                for event in self._events:
                    return event
                if self._parser.closed:
                    return None
                self._events = self._parser.parse(await anext(self._body, b""))
            except MultipartError as error:
                raise Malformed(f"the body is no multipart/form-data: {error}") from None

    async def read(self) -> bytes | None:
        """What comes next of the part that is open, None at its end."""
        event = await self._next()
        assert not isinstance(event, MultipartSegment)
        return None if event is None else bytes(event)


class Part:
    """A part of the body."""

    def __init__(self, segment: MultipartSegment, parts: Parts) -> None:
        self.name: str = segment.name
        """Of the field."""
        self.filename: str = segment.filename or ""
        """As it was sent, directories included."""
        self.content_type: str = segment.content_type or ""
        """Empty where the sender says none."""
        self._parts = parts
        self._over = False

    async def content(self) -> AsyncGenerator[bytes, None]:
        """The bytes, as they arrive."""
        while not self._over:
            chunk = await self._parts.read()
            self._over = chunk is None
            if chunk:
                yield chunk

    async def text(self) -> str:
        """The value of a field. Raises Malformed where it is too long, or no UTF-8."""
        value = bytearray()
        async for chunk in self.content():
            value += chunk
            if len(value) > FIELD_BYTES:
                raise Malformed(f"{self.name}: longer than {FIELD_BYTES} bytes", self.name)
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Malformed(f"{self.name}: not valid UTF-8", self.name) from None

    async def skip(self) -> None:
        """Read past the rest."""
        async for _ in self.content():
            pass
