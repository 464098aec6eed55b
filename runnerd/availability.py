"""Which languages can run here: those whose tool chain was found. What is missing is looked for again when a job asks for it."""

import asyncio
from collections.abc import Mapping

import msgspec

from .errors import Rejected
from .spec import Language
from .toolchains import Toolchain, Toolchains

_AGAIN_S = 2.0
"""How long a tool chain that was missing is taken to be missing still."""


class Availability:
    """What was found of each language's tool chain."""

    def __init__(self, languages: Mapping[str, Language], toolchains: Toolchains) -> None:
        self.languages = languages
        self.found: dict[str, Toolchain] = {}
        """By code."""
        self._toolchains = toolchains
        self._looked_at = 0.0
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        """Look for every tool chain that is not known to be there."""
        unknown = [language for code, language in self.languages.items() if not self.present(code)]
        self.found |= await self._toolchains.probe(unknown)
        self._looked_at = asyncio.get_running_loop().time()

    def present(self, code: str) -> bool:
        """Whether the language's tool chain was found."""
        return code in self.found and self.found[code].present

    def warmable(self) -> dict[str, Language]:
        """All languages, by code; nothing is to be kept warm of those that can't run."""
        return {
            code: language if self.present(code) else msgspec.structs.replace(language, warm=0) for code, language in self.languages.items()
        }

    async def check(self, code: str) -> bool:
        """Refuse a job whose language can't run here; whether its tool chain has just been found. Raises Rejected."""
        if self.present(code):
            return False
        async with self._looking:
            if not self.present(code) and asyncio.get_running_loop().time() > self._looked_at + _AGAIN_S:
                await self.look()
        found = self.found[code]
        if not found.present:
            install = f": install it with `{found.install}`" if found.install else ""
            raise Rejected(f"lang: {self.languages[code].name} can't run on this machine: {found.problem}{install}")
        return True
