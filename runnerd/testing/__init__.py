"""Contract tests for plugin authors: subclass, say what is tested, run pytest. The bundled plugins run the same ones.

    class TestPerl(LanguageContract):
        language = LANGUAGE
        programs = Programs.read(Path(__file__).parent / "programs")

    class TestMine(KeyValuesContract):
        @pytest.fixture
        async def kv(self, tmp_path: Path) -> AsyncIterator[KeyValues]:
            async with Mine(path=str(tmp_path)).open_kv() as kv:
                yield kv

Needs pytest and pytest-asyncio; the tests are coroutines: set its `asyncio_mode = "auto"`.
"""

from .blobs import BlobsContract
from .fake import FakeServices
from .hosting import hosted
from .ingress import Caller, IngressContract
from .keyvalues import KeyValuesContract
from .language import LanguageContract, Programs
from .talking import TalkContract, Talker

__all__ = [
    "BlobsContract",
    "Caller",
    "FakeServices",
    "IngressContract",
    "KeyValuesContract",
    "LanguageContract",
    "Programs",
    "TalkContract",
    "Talker",
    "hosted",
]
