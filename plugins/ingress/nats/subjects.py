"""The subjects of this ingress: which are subscribed to, what a subject says, and where an answer may go."""

import re
from collections.abc import Iterable

from msgspec import Struct

REPLY_BYTES = 512
"""Longest reply subject. A server closes a client whose control line is over 4096 bytes."""

_NEVER = re.compile(r"[\s*>\x00-\x1f\x7f]|^\$|^\.|\.\.|\.$|^$")
"""Wildcards, white space, empty tokens, and what the server answers to itself (`$JS`, `$SYS`, `$SRV`)."""


class Subjects(Struct, frozen=True, kw_only=True):
    """Subjects under one prefix, for some tenants or for all."""

    prefix: str
    tenants: tuple[str, ...]
    reply_prefixes: tuple[str, ...]

    def run(self, languages: Iterable[str] = ("*",)) -> list[str]:
        """`<prefix>.run.<tenant>.<lang>`: jobs."""
        return [f"{self.prefix}.run.{tenant}.{lang}" for tenant in self.tenants for lang in languages]

    def control(self) -> list[str]:
        """`<prefix>.ctl.<tenant>.<job>.<verb>`: questions about a job."""
        return [f"{self.prefix}.ctl.{tenant}.*.*" for tenant in self.tenants]

    def stdin(self) -> list[str]:
        """`<prefix>.stdin.<tenant>.<job>`: standard input of interactive jobs, heard by all daemons."""
        return [f"{self.prefix}.stdin.{tenant}.*" for tenant in self.tenants]

    def answers(self) -> list[str]:
        """`<prefix>.tool.<tenant>.<job>.<call>`: answers to calls of tools, heard by all daemons."""
        return [f"{self.prefix}.tool.{tenant}.*.*" for tenant in self.tenants]

    def cast(self, tenant: str, job: str) -> str:
        """`<prefix>.cast.<tenant>.<job>.cancel`: said to all daemons."""
        return f"{self.prefix}.cast.{tenant}.{job}.cancel"

    def casts(self) -> list[str]:
        """What is said to all daemons."""
        return [self.cast(tenant, "*") for tenant in self.tenants]

    def info(self) -> str:
        """`<prefix>.info.<what>`: questions about this daemon."""
        return f"{self.prefix}.info.*"

    def tokens(self, subject: str) -> list[str]:
        """What follows the verb in a subject of this ingress: tenant and language, or tenant, job and verb, or what."""
        return subject[len(self.prefix) + 1 :].split(".")[1:]

    def reply_problem(self, reply: str) -> str:
        """Why no answer may go to `reply`, empty where one may.

        The sender chooses this subject and the daemon publishes on it, so that a careless daemon would delete a stream or
        submit a job in the sender's stead.
        """
        if len(reply.encode(errors="replace")) > REPLY_BYTES:
            return f"longer than {REPLY_BYTES} bytes"
        if _NEVER.search(reply):
            return "empty, reserved, or with wildcards, white space or empty tokens"
        if reply == self.prefix or reply.startswith(self.prefix + "."):
            return "one of runnerd's own subjects"
        if not any(reply.startswith(prefix) and reply != prefix for prefix in self.reply_prefixes):
            return f"begins with none of {', '.join(self.reply_prefixes)}"
        return ""
