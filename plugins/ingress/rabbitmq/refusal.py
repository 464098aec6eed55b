"""A request that is answered without running anything."""

from msgspec import Struct

BAD_REQUEST, NOT_FOUND, CONFLICT, TOO_LARGE = 400, 404, 409, 413
BROKEN, UNAVAILABLE = 500, 503


class Refusal(Exception):
    """Why a request is refused. Codes below 500: the caller has to change it. From 500: try again, here or elsewhere."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Refused(Struct, frozen=True, kw_only=True):
    """The body of an answer that is no result."""

    error: str
    code: int
