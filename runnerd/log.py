"""Where log lines go: standard error, and a file that is rotated. Never the body of a job or of a result."""

import json
import logging
import logging.handlers
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec
import structlog
from msgspec import Meta, Struct
from structlog.typing import EventDict

from .errors import ConfigError

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "err": logging.ERROR,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "critical": logging.CRITICAL,
}

ACCESS = "runnerd.access"
"""Logger of requests that were answered, one line each."""
SECURITY = "runnerd.security"
"""Logger of refused keys, refused tenants and the like."""


class LogSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged, and where."""

    level: Annotated[str, Meta(extra={"env": "LOG_LEVEL"})] = "info"
    """Least level that is logged: debug, info, warning, error or critical, in any spelling."""
    format: Annotated[Literal["auto", "json", "text"], Meta(extra={"env": "LOG_FORMAT"})] = "auto"
    """`json`: one object per line. `text`: for people. `auto`: text on a terminal, else json."""
    file: Annotated[str, Meta(extra={"env": "LOG_FILE"})] = ""
    """File that gets every line too, besides standard error. Empty: none."""
    file_bytes: Annotated[int, Meta(gt=0, extra={"env": "LOG_MAX_SIZE_MB"})] = 100 << 20
    """Size at which the file is put aside and a new one begun."""
    file_backups: Annotated[int, Meta(ge=0, extra={"env": "LOG_BACKUP_COUNT"})] = 5
    """How many files that were put aside are kept. 0: the file is never put aside and grows without end."""
    access: Annotated[bool, Meta(extra={"env": "ENABLE_ACCESS_LOGS"})] = True
    """Log every request that was answered."""
    security: Annotated[bool, Meta(extra={"env": "ENABLE_SECURITY_LOGS"})] = True
    """Log refused keys, refused tenants and the like."""
    debug: Annotated[bool, Meta(extra={"env": "API_DEBUG"})] = False
    """Log as with level debug, whatever `level` says. Weakens no check."""

    def __post_init__(self) -> None:
        if self.level.strip().lower() not in _LEVELS:
            raise ValueError(f"level: {self.level!r} is not known: use debug, info, warning, error or critical")

    def threshold(self) -> int:
        """The level as the standard library counts it."""
        return logging.DEBUG if self.debug else _LEVELS[self.level.strip().lower()]


@contextmanager
def open_log(settings: LogSettings) -> Iterator[None]:
    """Send structlog's and the standard library's lines where the settings say, while the block is open.

    Raises ConfigError where the file can't be written.
    """
    handlers = [_stderr(settings), *_file(settings)]
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers, root.level = handlers, settings.threshold()
    quiet = [*([] if settings.access else [ACCESS, "uvicorn.access"]), *([] if settings.security else [SECURITY])]
    for name in quiet:
        logging.getLogger(name).disabled = True
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_shared(), _Sink(handlers)],
        wrapper_class=structlog.make_filtering_bound_logger(settings.threshold()),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    try:
        yield
    finally:
        structlog.reset_defaults()
        for name in quiet:
            logging.getLogger(name).disabled = False
        root.handlers, root.level = before
        for handler in handlers:
            handler.close()


class _Line(logging.LogRecord):
    """A line of structlog's. It has none of what the standard library finds out about its caller, which costs more than the line."""

    def __init__(self, name: str, level: int, line: EventDict) -> None:
        self.name, self.levelno, self.line = name, level, line


class _Sink:
    """The last of structlog's processors: gives each line to the handlers, and nothing to the logger."""

    def __init__(self, handlers: list[logging.Handler]) -> None:
        self._handlers = handlers

    def __call__(self, logger: logging.Logger, method: str, line: EventDict) -> NoReturn:
        record = _Line(logger.name, _LEVELS.get(method, logging.ERROR), line)
        for handler in self._handlers:
            handler.handle(record)
        raise structlog.DropEvent


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Renders lines of structlog's, and those of the standard library as if they were."""

    def format(self, record: logging.LogRecord) -> str:
        """The line as text."""
        if not isinstance(record, _Line):
            return super().format(record)
        line: Any = dict(record.line)  # each handler's own
        for act in self.processors[1:]:  # the first is for the standard library's
            line = act(None, "", line)
        return str(line)


def _json(line: EventDict, default: Any) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=default).decode()
    except (TypeError, ValueError, OverflowError):  # half a surrogate pair, say, or a number beyond 64 bits
        return json.dumps(line, default=default)


def _shared() -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _stderr(settings: LogSettings) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    terminal = sys.stderr.isatty()
    handler.setFormatter(_formatter(settings, terminal=terminal, colors=terminal))
    return handler


def _file(settings: LogSettings) -> Iterator[logging.Handler]:
    if not settings.file:
        return
    try:
        Path(settings.file).parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            settings.file, maxBytes=settings.file_bytes, backupCount=settings.file_backups, encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"log.file: {settings.file} can't be written: {error.strerror}: set LOG_FILE to another path") from None
    handler.setFormatter(_formatter(settings, terminal=False, colors=False))
    yield handler


def _formatter(settings: LogSettings, *, terminal: bool, colors: bool) -> logging.Formatter:
    as_text = settings.format == "text" or (settings.format == "auto" and terminal)
    renderer: Any = structlog.dev.ConsoleRenderer(colors=colors) if as_text else structlog.processors.JSONRenderer(_json)
    tail = [] if as_text else [structlog.processors.format_exc_info]
    return _Formatter(
        foreign_pre_chain=_shared(),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail, renderer],
    )
