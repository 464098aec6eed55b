"""What has to be true when all is calm again, whatever happened."""

import itertools
from collections import defaultdict

from chaos.bus import Answer
from chaos.daemons import Held
from chaos.ledger import Seen
from chaos.run import Run
from chaos.run import recorded as stands
from chaos.schedule import Planned
from runnerd import Result

MORE_FILES, MORE_TASKS, MORE_RSS_MB = 24, 3, 48.0
"""Connections to the store are kept, up to 20."""
HEAD = 24
"""First letters of the output, which have the mark of the start; a large output is cut where it is told."""


class Broken(AssertionError):
    """An invariant does not hold, for these jobs."""

    def __init__(self, what: str, jobs: dict[str, object]) -> None:
        super().__init__(f"{what}: {jobs}")
        self.jobs = list(jobs)


def none(jobs: dict[str, object], what: str) -> None:
    """Raises Broken where there are such jobs."""
    if jobs:
        raise Broken(what, jobs)


def essence(result: Result) -> tuple[object, ...]:
    """What two tellings of one result have in common."""
    return result.id, result.status, result.exit_code, result.starts, result.stdout.partition("\n")[0][:HEAD]


def as_planned(job: Planned, result: Result) -> bool:
    """Whether a job ended in a way that its program, or its submitter, wanted."""
    if result.status == "cancelled":
        return job.cancel_s is not None
    wanted = {"fail 3": ("failed", 3), "lose 99": ("dead", None)}
    return (result.status, result.exit_code) == wanted.get(job.code, ("ok", 0))


async def recorded(run: Run) -> dict[str, Result]:
    """The result of every job, by its status."""
    results, missing, wrong = {}, {}, {}
    for job in run.plan.jobs:
        answer = await run.status(job.id)
        if not isinstance(answer, Result) or not stands(answer):
            missing[job.id] = answer
        elif as_planned(job, answer):
            results[job.id] = answer
        else:
            wrong[job.id] = answer
    none(missing, "accepted, and without a result")
    none(wrong, "ended as nobody wanted it")
    return results


async def check_results(run: Run, results: dict[str, Result]) -> None:
    """Nobody was told anything else than what is recorded; another job under its id was rejected."""
    said: dict[str, set[tuple[object, ...]]] = defaultdict(set)
    for job, result in results.items():
        said[job].add(essence(result))
    others = {answer.result.id: answer for answer in run.bus.answers if answer.sending == "other"}
    for answer in run.bus.answers:
        if answer.sending != "other":
            said[answer.result.id].add(essence(answer.result))
    for result in (await run.bus.published(list(results))).values():
        said[result.id].add(essence(result))
    for result in run.cancelled.values():
        said[result.id].add(essence(result))
    none({job: each for job, each in said.items() if len(each) != 1}, "more than one result")
    accepted = {job: answer for job, answer in others.items() if not _refused(answer, results[job])}
    none(accepted, "another job under an id that was taken is not rejected")
    run.counts["others rejected"] = len(others)


def _refused(answer: Answer, result: Result) -> bool:
    """Whether another job got nothing. An id that was cancelled before any job came under it is cancelled for all of them."""
    if result.status == "cancelled" and not result.starts:
        return essence(answer.result) == essence(result) or answer.result.status == "rejected"
    return answer.result.status == "rejected" and "another job" in answer.result.reason


async def check_told(run: Run, results: dict[str, Result]) -> None:
    """A bus that keeps results has each of them; one that keeps answers has brought them all."""
    if run.bus.kind == "nats":
        published = await run.bus.published(list(results))
        none({job: result for job, result in results.items() if job not in published}, "not published")
    if run.bus.sure:
        unanswered = run.bus.sent - {answer.to for answer in run.bus.answers}
        none({name.split("-", 1)[1].rpartition("-")[0]: name for name in unanswered}, "submitted, and not answered")


async def check_letters(run: Run, results: dict[str, Result]) -> None:
    """Dead letters are of the dead, each of them, and have a reason."""
    letters = await run.bus.letters()
    dead = {job for job, result in results.items() if result.status == "dead"}
    run.counts["dead letters"] = len(letters)
    none({job: letters.get(job) for job in set(letters) ^ dead}, "dead without a letter, or a letter without a death")
    none({job: "" for job in dead if not letters[job] or not results[job].reason}, "dead without a reason")


def check_starts(run: Run, results: dict[str, Result]) -> None:
    """Each start was counted; the result is of one that ended; where there was more than one, something happened to the first."""
    seen = Seen(run.directory)
    run.blows.all += seen.late
    never, uncounted, causeless = {}, {}, {}
    for job, result in results.items():
        starts = seen.starts[job]
        if result.status in ("ok", "failed"):
            mark = result.stdout.partition("\n")[0]
            if not any(start.mark == mark and start.ended for start in starts):
                never[job] = starts
        if len(starts) > result.starts and result.status != "cancelled":
            uncounted[job] = (result.starts, starts)
        if not all(run.blows.cause(start, following) for start, following in itertools.pairwise(starts)):
            causeless[job] = starts
        run.counts["jobs started twice"] += len(starts) > 1 and not starts[0].lost
        run.counts["jobs ended twice"] += sum(start.ended is not None for start in starts) > 1
    none(never, "a result of a start that never was, or never ended")
    none(uncounted, "started more often than was counted")
    none(causeless, "started again, though nothing had happened")


def check_held(before: Held, after: Held, name: str) -> None:
    """A daemon holds no more than one that is new."""
    assert after.children == 0
    assert after.files <= before.files + MORE_FILES, f"{name}: files: {before}, {after}"
    assert after.tasks <= before.tasks + MORE_TASKS, f"{name}: tasks: {before}, {after}"
    assert after.threads <= before.threads + 2, f"{name}: threads: {before}, {after}"
    assert after.rss_mb <= before.rss_mb + MORE_RSS_MB, f"{name}: memory: {before}, {after}"
