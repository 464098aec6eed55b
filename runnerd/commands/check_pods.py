"""`runnerd check`, where sandboxes are pods: whether the cluster can be reached, lets us do what we have to, and starts a pod."""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from .finding import Finding

if TYPE_CHECKING:
    from ..config import Settings
    from ..spec import Executor, Language


async def in_pods(settings: "Settings", languages: "Mapping[str, Language]") -> AsyncIterator[Finding]:
    """Open the executor, which looks at credentials and rights, and start a sandbox of each language that is to stand warm."""
    from .. import placing
    from ..errors import Rejected, RunnerdError
    from ..isolation import check_level

    try:
        async with placing.open_executor(settings, languages) as executor:
            said: Mapping[str, Any] = getattr(executor, "description", {})
            yield Finding(about="pods", state="ok", text=f"namespace {said['namespace']}: reached, with all rights that are needed")
            for warning in said["warnings"]:
                yield Finding(about="pods", state="note", text=warning)
            try:
                check_level(executor.level, settings.isolation)
                yield Finding(about="isolation", state="ok", text=f"level {executor.level}")
            except Rejected as error:
                yield Finding(about="isolation", state="problem", text=str(error))
            warm = [language for language in languages.values() if language.warm]
            for language in [*warm, *(language for language in languages.values() if language.reuse == "tenant" and not language.warm)]:
                yield await _started(executor, language)
            for language in warm[:1]:
                yield await _counted(executor, language)
    except RunnerdError as error:
        yield Finding(about="pods", state="problem", text=str(error))


async def _started(executor: "Executor", language: "Language") -> Finding:
    """Whether a pod of the language starts, and its agent answers."""
    import asyncio

    from ..errors import SandboxError

    about = f"language {language.code}"
    began = asyncio.get_running_loop().time()
    try:
        async with executor.sandbox(language):
            took_s = asyncio.get_running_loop().time() - began
    except SandboxError as error:
        return Finding(about=about, state="problem", text=f"its pod does not start: {error}")
    return Finding(about=about, state="ok", text=f"a pod was ready after {took_s:.1f} s")


async def _counted(executor: "Executor", language: "Language") -> Finding:
    """Whether the kubelet bounds how many processes a pod may have."""
    from ..errors import RunnerdError
    from ..executors.pods.executor import PodExecutor
    from ..executors.pods.pids import process_limit

    assert isinstance(executor, PodExecutor)
    try:
        return counted(await process_limit(executor, language))
    except RunnerdError as error:
        return Finding(about="processes", state="note", text=f"what the kubelet lets a pod have could not be tried: {error}")


def counted(found: int | None) -> Finding:
    """What follows from how many processes a pod may have."""
    from ..executors.pods.pids import MOST

    if found is None:
        return Finding(about="processes", state="note", text="whether the kubelet has a podPidsLimit could not be told")
    if found >= MOST:
        text = (
            f"a pod may have {MOST} processes and more: the agent alone counts those of a job; "
            "set podPidsLimit in the configuration of the kubelets"
        )
        return Finding(about="processes", state="note", text=text)
    return Finding(about="processes", state="ok", text=f"the kubelet's podPidsLimit ends at about {found}")
