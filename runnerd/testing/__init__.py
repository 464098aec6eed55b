"""Contract tests for plugin authors: subclass, say what is tested, run pytest. The bundled plugins run the same ones.

    class TestPerl(LanguageContract):
        language = LANGUAGE
        programs = Programs.read(Path(__file__).parent / "programs")

The tests are coroutines: set pytest-asyncio's `asyncio_mode = "auto"`.
"""

from .language import LanguageContract, Programs

__all__ = ["LanguageContract", "Programs"]
