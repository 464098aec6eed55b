"""The library's reading of frames, hardened against what any sender could do to it.

A property that is no UTF-8, a header of a type that is not known, a time that is none: an exception from one message's
frame would end the library's connection, and the broker would deliver the message again to the next one, for ever.
"""

import logging

from pamqp import commands, header

MALFORMED = "runnerd.malformed"
"""Type of a message whose properties could not be read. They are gone, its body is there."""

_read_header = header.ContentHeader.unmarshal
_read_method = commands.Basic.Deliver.unmarshal


def harden() -> None:
    """Have unreadable properties read as none, with the type MALFORMED, and bodies stay out of the log. May be called again."""
    for name in ("aiormq", "aio_pika"):  # it logs whole messages that come back to it, and each loss that we tell in a line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    header.ContentHeader.unmarshal = _header  # type: ignore[method-assign]
    commands.Basic.Deliver.unmarshal = _deliver  # type: ignore[method-assign, assignment]


def _header(self: header.ContentHeader, data: bytes) -> None:
    try:
        _read_header(self, data)
    except Exception:  # noqa: BLE001 - whatever the library raises for bytes that a stranger chose
        self.properties = commands.Basic.Properties(message_type=MALFORMED)  # class, weight and size were read first


def _deliver(self: commands.Basic.Deliver, data: bytes) -> None:
    try:
        _read_method(self, data)
    except UnicodeDecodeError:
        _read_method(self, _readable(data))


def _readable(data: bytes) -> bytes:
    """The frame of a delivery with every byte of its exchange and routing key that is no ASCII replaced by `?`."""
    start = data[0] + 10  # behind consumer tag, delivery tag and redelivered
    middle = start + 1 + data[start]
    end = middle + 1 + data[middle]
    exchange, key = _ascii(data[start + 1 : middle]), _ascii(data[middle + 1 : end])
    return data[: start + 1] + exchange + data[middle : middle + 1] + key


def _ascii(text: bytes) -> bytes:
    return bytes(byte if byte < 128 else ord("?") for byte in text)
