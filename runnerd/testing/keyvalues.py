"""What every key-value store has to do, as tests. Each takes a fixture `kv`: an open, empty KeyValues."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from ..errors import StoreError
from ..store import KeyValues

BAD_KEYS = ("", "/", "a/", "/a", "a//b", "..", "../a", "a/../b", "a b", "a\n", "a\0", "é", "a.b", "x" * 65, "/".join(["x" * 60] * 20))
"""Keys that no store takes."""
LONGEST_KEY = "/".join(["x" * 64] * 7 + ["-_" * 28])


async def refused(ask: Awaitable[object], text: str) -> None:
    """Assert that something raises StoreError, and that its message has `text` in it."""
    try:
        answer = await ask
    except StoreError as error:
        said = str(error)
    else:
        raise AssertionError(f"no StoreError was raised about {text!r}, the answer is {answer!r}")
    assert text in said, f"the error names no {text!r}: {said}"


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until a condition holds; fails with `what` it waited for."""
    try:
        async with asyncio.timeout(60):
            while not await condition():  # noqa: ASYNC110 - a store tells nobody that an entry expired
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


class KeyValuesContract:
    """What every key-value store has to do."""

    async def test_puts_and_gets_any_bytes(self, kv: KeyValues) -> None:
        """Values are bytes and come back as they were, with the revision of their write."""
        assert await kv.get("jobs/t/a") is None
        for value in (b"", b"\x00\xff\n\r", bytes(range(256)) * 2048):
            revision = await kv.put("jobs/t/a", value)
            assert await kv.get("jobs/t/a") == (value, revision)

    async def test_keys_are_apart(self, kv: KeyValues) -> None:
        """A key may begin with another, differ in case or be as long as keys get."""
        keys = ("a", "a/b", "a-b", "a_b", "A", "a/B", "0", "-", LONGEST_KEY)
        for key in keys:
            await kv.put(key, key.encode())
        for key in keys:
            found = await kv.get(key)
            assert found is not None, key
            assert found[0] == key.encode()

    async def test_every_write_has_a_revision_of_its_own(self, kv: KeyValues) -> None:
        """The same value written again is another write, and so is one after a delete."""
        revisions = [await kv.put("a", b"same") for _ in range(3)]
        await kv.delete("a")
        revisions.append(await kv.put("a", b"same"))
        await kv.delete("a")
        revisions.append((await kv.put_if_absent("a", b"same"))[2])
        assert len(set(revisions)) == 5, f"a revision came back: {revisions}"

    async def test_put_if_absent_tells_what_stands(self, kv: KeyValues) -> None:
        """It writes where there is nothing, and never over something."""
        written, value, revision = await kv.put_if_absent("a", b"1")
        assert (written, value) == (True, b"1")
        assert await kv.put_if_absent("a", b"2") == (False, b"1", revision)
        assert await kv.get("a") == (b"1", revision)

    async def test_put_if_absent_has_one_winner(self, kv: KeyValues) -> None:
        """Of a hundred that come at once one writes, and all are told the same."""
        answers = await asyncio.gather(*(kv.put_if_absent("a", str(i).encode()) for i in range(100)))
        winners = [answer for answer in answers if answer[0]]
        assert len(winners) == 1, f"{len(winners)} winners"
        assert {answer[1:] for answer in answers} == {winners[0][1:]}

    async def test_compare_and_set_loses_no_count(self, kv: KeyValues) -> None:
        """Thirty that count up at once reach thirty."""
        await kv.put("a", b"0")

        async def count() -> None:
            while True:
                found = await kv.get("a")
                assert found is not None
                if await kv.compare_and_set("a", found[1], str(int(found[0]) + 1).encode()) is not None:
                    return

        await asyncio.gather(*(count() for _ in range(30)))
        found = await kv.get("a")
        assert found is not None
        assert found[0] == b"30", found

    async def test_compare_and_set_needs_the_revision_that_stands(self, kv: KeyValues) -> None:
        """An old revision, one of another key or none at all writes nothing."""
        old = await kv.put("a", b"1")
        new = await kv.put("a", b"2")
        assert await kv.compare_and_set("a", old, b"3") is None
        assert await kv.compare_and_set("a", "nonsense", b"3") is None
        assert await kv.compare_and_set("a", "", b"3") is None
        assert await kv.compare_and_set("nothing", new, b"3") is None
        assert await kv.get("nothing") is None
        last = await kv.compare_and_set("a", new, b"3")
        assert last is not None
        assert await kv.get("a") == (b"3", last)

    async def test_delete_tells_whether_it_removed(self, kv: KeyValues) -> None:
        """Twice is no error, and what was deleted is absent."""
        await kv.put("a", b"1")
        assert await kv.delete("a") is True
        assert await kv.delete("a") is False
        assert await kv.get("a") is None
        assert (await kv.put_if_absent("a", b"2"))[0] is True

    async def test_delete_of_a_revision_spares_every_other(self, kv: KeyValues) -> None:
        """With a revision only that one is removed."""
        old = await kv.put("a", b"1")
        new = await kv.put("a", b"2")
        assert await kv.delete("a", old) is False
        assert await kv.delete("a", "nonsense") is False
        assert await kv.get("a") == (b"2", new)
        assert await kv.delete("a", new) is True
        assert await kv.delete("a", new) is False
        assert await kv.get("a") is None

    async def test_one_delete_of_a_revision_wins(self, kv: KeyValues) -> None:
        """Of many that delete the same revision at once, one is told that it did."""
        revision = await kv.put("a", b"1")
        assert (await asyncio.gather(*(kv.delete("a", revision) for _ in range(30)))).count(True) == 1

    async def test_entries_expire_for_every_operation(self, kv: KeyValues) -> None:
        """What expired is absent, whether or not it was removed already."""
        for key in ("a", "b", "c", "d"):
            revision = await kv.put(key, b"1", ttl_s=0.05)
        await kv.put("stays", b"1", ttl_s=3600)
        await kv.put("forever", b"1")

        async def gone() -> bool:
            return await kv.get("d") is None

        await until(gone, "an entry of 50 ms expired")
        assert await kv.compare_and_set("d", revision, b"2") is None
        assert await kv.delete("d", revision) is False
        assert await kv.delete("c") is False
        assert (await kv.put_if_absent("a", b"2"))[:2] == (True, b"2")
        assert await kv.expire(1) <= 1
        while await kv.expire():
            pass
        assert [key for key in ("a", "b", "c", "d", "stays", "forever") if await kv.get(key) is not None] == ["a", "stays", "forever"]

    async def test_a_write_sets_the_life_anew(self, kv: KeyValues) -> None:
        """The life of an entry is that of its last write: longer, or for ever."""
        await kv.put("a", b"1", ttl_s=0.05)
        await kv.put("a", b"2")
        moved = await kv.compare_and_set("b", await kv.put("b", b"1", ttl_s=0.05), b"2", 3600)
        await kv.put("c", b"1", ttl_s=0.05)

        async def gone() -> bool:
            return await kv.get("c") is None

        await until(gone, "an entry of 50 ms expired")
        await kv.expire()
        assert await kv.get("a") is not None
        assert moved is None or await kv.get("b") is not None, "None where 50 ms passed in between"

    async def test_a_life_that_is_none_is_refused(self, kv: KeyValues) -> None:
        """A time to live is finite and above 0."""
        revision = await kv.put("a", b"1")
        for ttl_s in (0, -1, math.nan, math.inf):
            await refused(kv.put("a", b"2", ttl_s), "ttl_s")
            await refused(kv.put_if_absent("b", b"2", ttl_s), "ttl_s")
            await refused(kv.compare_and_set("a", revision, b"2", ttl_s), "ttl_s")
        assert await kv.get("a") == (b"1", revision)
        assert await kv.get("b") is None

    async def test_values_have_a_bound(self, kv: KeyValues) -> None:
        """A value of `value_bytes` is taken, a larger one is refused and what stood there stays."""
        revision = await kv.put("a", bytes(kv.value_bytes))
        for ask in (kv.put, kv.put_if_absent):
            await refused(ask("a", bytes(kv.value_bytes + 1)), "value_bytes")
        await refused(kv.compare_and_set("a", revision, bytes(kv.value_bytes + 1)), "value_bytes")
        found = await kv.get("a")
        assert found is not None
        assert (len(found[0]), found[1]) == (kv.value_bytes, revision)

    async def test_only_tokens_are_keys(self, kv: KeyValues) -> None:
        """Other keys are refused by every method."""
        for key in BAD_KEYS:
            await refused(kv.get(key), "tokens")
            await refused(kv.put(key, b"1"), "tokens")
            await refused(kv.put_if_absent(key, b"1"), "tokens")
            await refused(kv.compare_and_set(key, "1", b"1"), "tokens")
            await refused(kv.delete(key), "tokens")
            await refused(kv.rank(key, "a", 1), "tokens")
            await refused(kv.rank("r", key, 1), "tokens")
            await refused(kv.unrank("r", key), "tokens")
            await refused(kv.ranked(key), "tokens")

    async def test_a_ranking_is_in_order(self, kv: KeyValues) -> None:
        """Lowest score first, equals by name; a member stands once, where it was put last."""
        assert await kv.ranked("r") == []
        for member, score in (("c", 2.0), ("b/x", 1.5), ("b-x", 1.5), ("a", 7.0), ("a", -1.0), ("z", math.inf), ("big", 1234567890.125)):
            await kv.rank("r", member, score)
        order = [("a", -1.0), ("b-x", 1.5), ("b/x", 1.5), ("c", 2.0), ("big", 1234567890.125), ("z", math.inf)]
        assert await kv.ranked("r") == order
        assert await kv.ranked("r", until=2.0) == order[:4], "`until` is among them"
        assert await kv.ranked("r", until=1.4) == order[:1]
        assert await kv.ranked("r", most=2) == order[:2]
        assert await kv.ranked("r", until=2.0, most=2) == order[:2]

    async def test_members_leave_a_ranking(self, kv: KeyValues) -> None:
        """Taking out what is not there is no error; rankings are apart from one another and from entries."""
        await kv.put("r", b"an entry")
        await kv.rank("r", "a", 1)
        await kv.rank("r", "b", 2)
        await kv.rank("other", "a", 3)
        await kv.unrank("r", "a")
        await kv.unrank("r", "a")
        await kv.unrank("nothing", "a")
        assert await kv.ranked("r") == [("b", 2.0)]
        await kv.unrank("r", "b")
        assert await kv.ranked("r") == []
        assert await kv.ranked("other") == [("a", 3.0)]
        await refused(kv.rank("r", "a", math.nan), "score")
        found = await kv.get("r")
        assert found is not None
        assert found[0] == b"an entry"

    async def test_many_rank_at_once(self, kv: KeyValues) -> None:
        """No member is lost, and pages of a ranking meet."""
        await asyncio.gather(*(kv.rank("r", f"m{i:03}", i % 7) for i in range(200)))
        await asyncio.gather(*(kv.unrank("r", f"m{i:03}") for i in range(0, 200, 2)))
        expected = sorted((float(i % 7), f"m{i:03}") for i in range(1, 200, 2))
        assert await kv.ranked("r") == [(member, score) for score, member in expected]

    async def test_cancelled_askers_harm_nobody(self, kv: KeyValues) -> None:
        """The store answers the others, and every later one."""
        async with asyncio.TaskGroup() as tasks:
            askers = [tasks.create_task(kv.put("a", str(i).encode())) for i in range(50)]
            await asyncio.sleep(0)
            for asker in askers[::2]:
                asker.cancel()
        assert all(asker.result() for asker in askers[1::2])
        found = await asyncio.gather(*(kv.get("a") for _ in range(20)))
        assert len(set(found)) == 1
        assert found[0] is not None
