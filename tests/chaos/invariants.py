"""What has to be true when all is calm again, whatever happened."""

from collections import defaultdict

from chaos.daemons import Held
from chaos.run import Run
from runnerd import Result

FINAL = {"ok", "failed", "cancelled", "dead"}
MORE_FILES, MORE_TASKS, MORE_RSS_MB = 24, 3, 96.0
"""Connections to the store are kept, up to 20."""
HEAD = 24
"""First letters of the output, which have the mark of the start; a large output is cut where it is told."""


def essence(result: Result) -> tuple[object, ...]:
    """What two tellings of one result have in common."""
    return result.id, result.status, result.exit_code, result.starts, result.stdout.partition("\n")[0][:HEAD]


async def recorded(run: Run) -> dict[str, Result]:
    """The result of every job, by its status."""
    results, wrong = {}, {}
    for job in run.plan.jobs:
        answer = await run.status(job.id)
        if isinstance(answer, Result) and answer.status in FINAL:
            results[job.id] = answer
        else:
            wrong[job.id] = answer
    assert not wrong, f"accepted, and without a result: {wrong}"
    return results


async def check_results(run: Run, results: dict[str, Result]) -> None:
    """Nobody was told anything else than what is recorded."""
    said: dict[str, set[tuple[object, ...]]] = defaultdict(set)
    for job, result in results.items():
        said[job].add(essence(result))
    for answer in run.bus.answers:
        said[answer.result.id].add(essence(answer.result))
    for result in (await run.bus.published(list(results))).values():
        said[result.id].add(essence(result))
    for result in run.cancelled.values():
        said[result.id].add(essence(result))
    contradictions = {job: each for job, each in said.items() if len(each) != 1}
    assert not contradictions, f"more than one result: {contradictions}"


async def check_published(run: Run, results: dict[str, Result]) -> None:
    """A bus that keeps results has each of them."""
    if run.bus.kind == "nats":
        published = await run.bus.published(list(results))
        assert set(published) == set(results), f"not published: {set(results) - set(published)}"


async def check_letters(run: Run, results: dict[str, Result]) -> None:
    """Dead letters are of the dead, each of them, and have a reason."""
    letters = await run.bus.letters()
    dead = {job for job, result in results.items() if result.status == "dead"}
    run.counts["dead letters"] = len(letters)
    assert set(letters) == dead, f"letters of {set(letters) - dead}, none of {dead - set(letters)}"
    assert all(letters.values()), f"without a reason: {letters}"
    assert all(results[job].reason for job in dead)


def check_starts(run: Run, results: dict[str, Result]) -> None:
    """One effect is visible: of a job that was started more than once, the other starts ended with their daemon, or lost a race."""
    starts: dict[str, list[str]] = defaultdict(list)
    ended = set()
    for what, job, mark in run.ledger:
        if what == "start":
            starts[job].append(mark)
        else:
            ended.add(mark)
    code = {job.id: job.code for job in run.plan.jobs}
    struck = {name for place in run.places for name in place.struck}
    for job, result in results.items():
        mark = result.stdout.partition("\n")[0]
        if result.status in ("ok", "failed"):
            assert mark in starts[job], f"{job}: its result is of a start that never was: {mark}"
            assert mark in ended, f"{job}: its result is of a start that did not end"
        others = [each for each in starts[job] if each != mark]
        if code[job].startswith("lose") or result.status == "cancelled":
            continue
        blameless = [each for each in others if each.partition(".")[0] not in struck]
        assert not blameless, f"{job} ({code[job]}): started more than once, though nothing happened to {blameless}: {starts[job]}"
        run.counts["jobs started twice"] += bool(others)
        run.counts["jobs ended twice"] += sum(each in ended for each in starts[job]) > 1


def check_held(before: Held, after: Held, name: str) -> None:
    """A daemon holds no more than one that is new."""
    assert after.children == 0
    assert after.files <= before.files + MORE_FILES, f"{name}: files: {before}, {after}"
    assert after.tasks <= before.tasks + MORE_TASKS, f"{name}: tasks: {before}, {after}"
    assert after.threads <= before.threads + 2, f"{name}: threads: {before}, {after}"
    assert after.rss_mb <= before.rss_mb + MORE_RSS_MB, f"{name}: memory: {before}, {after}"
