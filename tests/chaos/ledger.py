"""What the daemons' executors wrote down: all starts of all jobs, and when a process had no turn."""

from collections import defaultdict
from pathlib import Path

from chaos.blows import Blow, Start


class Seen:
    """The ledger, read."""

    def __init__(self, directory: Path) -> None:
        self.starts: dict[str, list[Start]] = defaultdict(list)
        """By job, in their order."""
        self.late: list[Blow] = []
        """Processes that had no turn for a while."""
        by_mark: dict[str, Start] = {}
        for line in (directory / "ledger").read_text().splitlines():
            what, whose, more, at = line.split()
            now = float(at)
            match what:
                case "start":
                    by_mark[more] = Start(mark=more, began=now)
                    self.starts[whose].append(by_mark[more])
                case "end":
                    by_mark[more].ended = now
                case "lost":
                    by_mark[more].lost = True
                case "late":
                    self.late.append(Blow(what="late", whom=whose, since=now - float(more), until=now))
        for starts in self.starts.values():
            starts.sort(key=lambda start: start.began)

    @property
    def count(self) -> int:
        """All starts."""
        return sum(map(len, self.starts.values()))
