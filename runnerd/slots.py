"""Slots for jobs, dealt in turn: to each language, and within a language to each tenant."""

from asyncio import CancelledError, Future, get_running_loop
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Self


class Slots:
    """A fixed number of slots. Who finds none waits in the line of its language and tenant."""

    def __init__(self, count: int, failing: Callable[[str], bool], changed: Callable[[], None]) -> None:
        """`failing` tells whether a language's sandboxes can't be started now; of such a language, one job
        at a time holds a slot while it waits for its sandbox, so the others go on.

        `changed` is called when `free` has changed.
        """
        self.held = 0
        self.waiting = 0
        self._count = count
        self._failing = failing
        self._changed = changed
        self._seeking: Counter[str] = Counter()
        """By language: slots whose jobs wait for their sandbox."""
        self._lines: OrderedDict[str, OrderedDict[str, dict[Future[None], None]]] = OrderedDict()

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self._count - self.held

    @property
    def unasked(self) -> int:
        """Free slots for whoever comes next: none while others wait in line."""
        return 0 if self.waiting else self.free

    def hold(self, lang: str, tenant: str) -> "Hold":
        """`async with slots.hold(lang, tenant):` holds a slot, after waiting in line for it."""
        return Hold(self, lang, tenant)

    def deal(self) -> None:
        """Give free slots to those whose turn it is. To be called when a language stops failing; else it calls itself."""
        while self.waiting and self.held < self._count:
            lang = next((lang for lang in self._lines if not self._blocked(lang)), None)
            if lang is None:
                return
            told = self._next(lang)
            if not told.done():  # else cancelled in this very turn of the loop
                self._take(lang)
                told.set_result(None)

    async def take(self, lang: str, tenant: str) -> None:
        """Wait for a slot and hold it."""
        if not self.waiting and self.held < self._count and not self._blocked(lang):
            self._take(lang)
            return
        told: Future[None] = get_running_loop().create_future()
        self._lines.setdefault(lang, OrderedDict()).setdefault(tenant, {})[told] = None
        self.waiting += 1
        self.deal()
        try:
            await told
        except CancelledError:
            if told.done() and not told.cancelled():
                self.found(lang)
                self.give()
            else:
                self._leave(lang, tenant, told)
            raise

    def found(self, lang: str) -> None:
        """The holder of a slot has its sandbox, or gave up."""
        self._seeking[lang] -= 1
        if self.waiting:
            self.deal()

    def give(self) -> None:
        """Give a slot back."""
        self.held -= 1
        self.deal()
        self._changed()

    def _take(self, lang: str) -> None:
        self.held += 1
        self._seeking[lang] += 1
        self._changed()

    def _blocked(self, lang: str) -> bool:
        return self._seeking[lang] > 0 and self._failing(lang)

    def _next(self, lang: str) -> Future[None]:
        """Take the first of the line whose turn it is out of it; language and tenant go to the end of their turns."""
        tenants = self._lines[lang]
        tenant, line = next(iter(tenants.items()))
        told = next(iter(line))
        tenants.move_to_end(tenant)
        self._lines.move_to_end(lang)
        self._leave(lang, tenant, told)
        return told

    def _leave(self, lang: str, tenant: str, told: Future[None]) -> None:
        tenants = self._lines.get(lang)
        if tenants is None or told not in tenants.get(tenant, ()):
            return  # its turn came, and went, while it was being cancelled
        del tenants[tenant][told]
        self.waiting -= 1
        if not tenants[tenant]:
            del tenants[tenant]
        if not tenants:
            del self._lines[lang]


class Hold:
    """A slot, held while the block is open."""

    __slots__ = ("_lang", "_seeking", "_slots", "_tenant")

    def __init__(self, slots: Slots, lang: str, tenant: str) -> None:
        self._slots = slots
        self._lang = lang
        self._tenant = tenant
        self._seeking = True

    async def __aenter__(self) -> Self:
        await self._slots.take(self._lang, self._tenant)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.found()
        self._slots.give()

    def found(self) -> None:
        """Say that the job has its sandbox."""
        if self._seeking:
            self._seeking = False
            self._slots.found(self._lang)
