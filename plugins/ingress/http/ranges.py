"""The `Range` header: RFC 9110, section 14. Plain code, no I/O."""

import re

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Unsatisfiable(Exception):
    """Nothing of the content is in the range."""


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and end, exclusive, of what is asked for; None for all of it. Raises Unsatisfiable.

    Several ranges, and what is no range of bytes, are ignored, as a server may: the answer is the whole then.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        start = int(match[1])
        end = min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    else:
        start, end = max(0, size - int(match[2])), size
    if start >= size or end <= start:
        raise Unsatisfiable
    return start, end
