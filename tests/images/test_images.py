"""Each image runs its language's hello, and a program that uses the libraries it is there for, confined as a sandbox is."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kubernetes_asyncio import client

import bare_pods
from conftest import bundled_languages
from runnerd import Language

IMAGES = Path(__file__).parents[2] / "images"
LANGUAGES = bundled_languages()
WANTED = os.environ.get("RUNNERD_TEST_IMAGES", "bash c-cpp javascript python").split()
"""Images to try, by name; `all` for all."""

pytestmark = pytest.mark.pods


@pytest.fixture(scope="module")
async def api() -> AsyncIterator[client.ApiClient]:
    async with bare_pods.cluster() as opened:
        yield opened


@pytest.fixture(scope="module")
async def namespace(api: client.ApiClient) -> AsyncIterator[str]:
    async with bare_pods.namespace(api, "runnerd-images-") as name:
        yield name


def wanted() -> list[Language]:
    return [language for language in LANGUAGES.values() if WANTED == ["all"] or language.image in WANTED]


def steps(language: Language, file: str, code: str) -> list[tuple[str, ...]]:
    """What runs a program: compile and run, as an executor would."""
    before = [("mkdir", "-p", "/tmp/classes", "/tmp/js")]
    parts = [part for part in (language.compile, language.run) if part]
    return before + [language.argv(part, file=file, code=code, tmp="/tmp", memory_bytes=512 << 20) for part in parts]


@pytest.mark.parametrize("language", wanted(), ids=lambda language: language.code)
async def test_hello(api: client.ApiClient, namespace: str, language: Language) -> None:
    file = language.saved_as(language.hello)
    work = bare_pods.commands(
        bare_pods.image(language.image), {file: language.hello}, steps(language, file, language.hello), dict(language.env)
    )
    assert await bare_pods.run(api, namespace, bare_pods.confined(work)) == ("Succeeded", "hi\n")


@pytest.mark.parametrize("language", wanted(), ids=lambda language: language.code)
async def test_libraries(api: client.ApiClient, namespace: str, language: Language) -> None:
    example = next(file for file in (IMAGES / language.image).iterdir() if file.suffix in language.suffixes)
    code = example.read_text()
    work = bare_pods.commands(
        bare_pods.image(language.image), {example.name: code}, steps(language, example.name, code), dict(language.env)
    )
    phase, said = await bare_pods.run(api, namespace, bare_pods.confined(work))
    assert phase == "Succeeded", said
    assert said.endswith("ok\n"), said


async def test_runs_as_nobody_in_particular(api: client.ApiClient, namespace: str) -> None:
    check = ("sh", "-c", "id -u; whoami; touch /root/x /usr/x 2>/dev/null || echo read-only; pwd")
    work = bare_pods.commands(bare_pods.image(WANTED[0] if WANTED != ["all"] else "bash"), {}, [check], {})
    assert await bare_pods.run(api, namespace, bare_pods.confined(work)) == ("Succeeded", "65532\nrunnerd\nread-only\n/mnt/data\n")
