"""Sandboxes that serve more than one job: only where it is asked for twice, and never without saying what that gives up."""

from collections.abc import Iterator, Mapping

from ..spec import Language
from .tree import Settings

GIVEN_UP = {
    "session": "a sandbox serves the jobs of one session until it is idle: what one leaves in its interpreter, in /mnt/data and in /tmp "
    "is there for the next, also what no result names and no snapshot can hold; who takes over such a sandbox has the session's later jobs",
    "tenant": "a sandbox serves one tenant's jobs one after the other: each finds nothing of those before it, but they share a pod and "
    "its agent, so who breaks out of one has the tenant's later jobs there",
}
"""What people give up with a way of reuse that is not `job`."""


def refusals(settings: Settings) -> Iterator[str]:
    """One line for each reuse that `isolation.reuse` does not allow."""
    asked = {"pool.reuse": settings.pool.reuse}
    asked |= {f"languages.{code}.reuse": own.reuse for code, own in settings.languages.items() if own.reuse is not None}
    for name, reuse in asked.items():
        if reuse != "job" and reuse not in settings.isolation.reuse:
            yield (
                f"{name} = {reuse}: isolation.reuse does not allow it: {GIVEN_UP[reuse]}. "
                f'If jobs may have that, add "{reuse}" to isolation.reuse (RUNNERD_ISOLATION_REUSE)'
            )


def notes(settings: Settings, languages: Mapping[str, Language]) -> Iterator[str]:
    """One line for each language whose sandboxes are reused. `languages`: by code, with what the settings change of them."""
    for code, language in languages.items():
        if language.reuse == "tenant" and settings.executor.kind == "local":
            yield f"languages.{code}: reuse = tenant has no effect on this machine: a cell serves one tenant at a time in any case"
        elif language.reuse != "job":
            yield f"languages.{code}: reuse = {language.reuse}: {GIVEN_UP[language.reuse]}"
