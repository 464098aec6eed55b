"""Which files a job finds under which names: those of its session, and over them those that it mounts. Plain code."""

from collections.abc import Mapping, Sequence

from ..job import Job
from .desk import Input
from .head import Head


def laid_out(head: Head, mounted: Sequence[tuple[str, Input]], job: Job) -> tuple[Mapping[str, Input], tuple[str, ...]]:
    """The files by name, and what people should know of those left out.

    Of one name the last holds: a mount beats the session's file, a later mount an earlier one, the job's own files beat both.
    A name can't be a file and a directory at once: the same order says which of the two holds.
    """
    own = [file.name for file in job.files]
    inputs: dict[str, Input] = {}
    warnings = []
    for name, it in [*((file.name, Input(head.owner.tenant, file)) for file in head.files), *mounted]:
        for other in [other for other in inputs if _clash(name, other)]:
            del inputs[other]
            warnings.append(_left_out(other, name))
        inputs[name] = it
    for name in own:
        inputs.pop(name, None)
        for other in [other for other in inputs if _clash(name, other)]:
            del inputs[other]
            warnings.append(_left_out(other, name))
    return inputs, tuple(warnings)


def _clash(one: str, other: str) -> bool:
    """Whether one name is a directory of the other."""
    return one.startswith(other + "/") or other.startswith(one + "/")


def _left_out(name: str, other: str) -> str:
    return f"file {name[:80]!r} was left out: it can't be beside {other[:80]!r}"
