"""The contract of a language, kept by each of the bundled ones. `make test` runs those that are quick and that are everywhere."""

from pathlib import Path

import pytest

from runnerd.plugins import OWN, find_plugins
from runnerd.spec import Executor, Language
from runnerd.testing import LanguageContract, Programs
from toolchain import require

PROGRAMS = Path(__file__).parent.parent / "programs"
DAILY = ("bash", "c", "js", "py")


@pytest.fixture(autouse=True)
def toolchain(request: pytest.FixtureRequest) -> None:
    require(request.cls.language)


class Shared(LanguageContract):
    """In sandboxes of one executor, the same for all languages."""

    @pytest.fixture
    def executor(self, executor: Executor) -> Executor:
        return executor


def contract(language: Language) -> type[Shared]:
    fields: dict[str, object] = {
        "__module__": __name__,
        "language": language,
        "programs": Programs.read(PROGRAMS / language.code),
        "pytestmark": [] if language.code in DAILY else [pytest.mark.slow],
        "timeout_s": 4.0 if language.code == "c" else None,  # gcc is quick, and `make test` waits for it
    }
    return type(f"Test{language.code.title()}", (Shared,), fields)


PLUGINS = find_plugins()
for plugin in PLUGINS.found:
    for code in plugin.languages if plugin.origin.distribution == OWN else ():
        test_case = contract(PLUGINS.languages[code])
        globals()[test_case.__name__] = test_case
del test_case
