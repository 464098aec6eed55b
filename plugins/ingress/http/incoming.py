"""A body as it arrives: of any length, as long as it goes on."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from litestar import Request
from litestar.exceptions import HTTPException


async def patiently(request: Request[Any, Any, Any], timeout_s: float) -> AsyncGenerator[bytes, None]:
    """The body as it arrives, as long as something does. Raises HTTPException."""
    body = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                chunk = await anext(body, b"")
        except TimeoutError:
            raise HTTPException(f"nothing of the body arrived for {timeout_s:g} s", status_code=408) from None
        if not chunk:
            return
        yield chunk
