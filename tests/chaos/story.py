"""What happened to one job, from all who saw something of it, in its order."""

import re
from pathlib import Path

from chaos.run import Run

_AT = re.compile(r"at='([0-9.]+)' ?(.*)")
MOST = 20_000


def story(run: Run, job: str) -> str:
    """Its plan, its starts, the daemons' log and the answers, with the seconds after the first job."""
    plan = next((each for each in run.plan.jobs if each.id == job), job)
    lines = [(blow.since, f"{blow.what} of {blow.whom or 'all'} until {blow.until - run.began:.3f}") for blow in run.blows.all]
    for line in (run.directory / "ledger").read_text().splitlines():
        what, whose, more, at = line.split()
        if whose == job:
            lines.append((float(at), f"{what} {more}"))
    lines += [(answer.at, f"answer to {answer.to}: {_short(answer.result)}") for answer in run.bus.answers if answer.result.id == job]
    lines += _logged(run.directory, rf"\b{re.escape(job)}\b")
    if job in run.cancelled:
        lines.append((float("inf"), f"who cancelled it was told {_short(run.cancelled[job])}"))
    return "\n".join((str(plan), *(f"{at - run.began:8.3f}  {text}" for at, text in sorted(lines))))


def warnings(run: Run) -> str:
    """What the daemons complained of, without a time or with one."""
    lines = [f"{at - run.began:8.3f}  {text}" for at, text in _logged(run.directory, r"^(?!.*level='info')")]
    return "\n".join(lines)[-MOST:]


def tracebacks(run: Run) -> str:
    """Lines of the log that no daemon meant to write."""
    meant = ("at=", "could not start: ", "socket.send() raised exception.")  # the last: asyncio of a connection that is lost
    return "\n".join(line for line in (run.directory / "log").read_text().splitlines() if not line.startswith(meant))[-MOST:]


def _logged(directory: Path, pattern: str) -> list[tuple[float, str]]:
    wanted = re.compile(pattern)
    found = (_AT.match(line) for line in (directory / "log").read_text().splitlines() if wanted.search(line))
    return [(float(match[1]), match[2]) for match in found if match]


def _short(result: object) -> str:
    return re.sub(r"x{40,}", "x…", str(result))
