"""What is in a sandbox that is kept from job to job: which version of each file, and whether its interpreter goes on. No I/O."""

from collections.abc import Iterable, Sequence

from ..agent.frames import Header
from ..spec import Content

OWN = ""
"""The version of what nobody else can name: a job's own file, or one that is not what the session has under that name."""


class Present:
    """The workspace of one sandbox, as the last job left it."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        """By the name of the file."""
        self.asleep = False
        """Whether an interpreter waits for its next program, with all its variables."""
        self.jobs = 0
        """How many have run."""

    def lacking(self, wanted: Sequence[Content]) -> list[Content]:
        """Those that have to be written."""
        return [content for content in wanted if self.versions.get(content.name, OWN) == OWN or not self._has(content)]

    def surplus(self, wanted: Iterable[Content], own: Iterable[str]) -> list[str]:
        """Names of what has to go first: what the next job is not to find, and what it is to find in another version."""
        kept = {content.name for content in wanted if self._has(content)}.difference(own)
        return [name for name in self.versions if name not in kept]

    def bring(self, wanted: Iterable[Content], own: Iterable[str]) -> None:
        """A job begins with these files and no others."""
        self.versions = {content.name: content.version for content in wanted} | dict.fromkeys(own, OWN)
        self.jobs += 1

    def left(self, name: str, version: str = OWN) -> None:
        """A job has left a file, as that version of it; without one, as something that is nowhere else."""
        if version or name in self.versions:
            self.versions[name] = version

    def hear(self, header: Header) -> None:
        """The agent says something: a file that it skips is not what it was."""
        if header["type"] == "skipped":
            self.left(header["name"])

    def end(self, done: Header) -> bool:
        """The job is over; returns whether the sandbox is kept."""
        self.asleep = done.get("asleep", False)
        for name in done.get("missing", ()):
            self.versions.pop(name, None)
        return done.get("kept", False) is True

    def _has(self, content: Content) -> bool:
        return content.version != OWN and self.versions.get(content.name) == content.version
