"""What outgrows a message, in a session."""

from collections.abc import AsyncIterator, Callable

from runnerd import File, OverLimit, Owner, Result, Session, Stored, encode, spill_result

RESULT = Result(
    id="one",
    tenant="acme",
    status="ok",
    stdout="x" * 9000,
    stderr="short",
    files=(File(name="a/b.bin", data=b"\0" * 5000), File(name="c.txt", text="é" * 100)),
)


class Kept:
    """Sessions that keep what they get, up to a size."""

    def __init__(self, most: int = 1 << 20) -> None:
        self.files: dict[str, bytes] = {}
        self.made = 0
        self._most = most

    async def create(self, owner: Owner) -> Session:
        self.made += 1
        return Session(id=f"s{self.made}", owner=owner, created=0, used=0, expires=0)

    async def upload(self, owner: Owner, session: str, name: str, chunks: AsyncIterator[bytes], content_type: str = "") -> Stored:
        content = b"".join([chunk async for chunk in chunks])
        if len(content) > self._most:
            raise OverLimit("too large")
        self.files[name] = content
        return Stored(id=name, session=session, name=name, size=len(content), content_type="", sha256="", created=0)


def below(most: int) -> Callable[[Result], bool]:
    return lambda result: len(encode(result)) <= most


async def test_what_fits_stays() -> None:
    kept = Kept()
    assert await spill_result(RESULT, below(1 << 20), kept) is RESULT  # type: ignore[arg-type]
    assert kept.made == 0


async def test_files_go_first() -> None:
    kept = Kept()
    spilled = await spill_result(RESULT, below(11_000), kept)  # type: ignore[arg-type]
    assert kept.files == {"a/b.bin": b"\0" * 5000, "c.txt": ("é" * 100).encode()}
    assert (spilled.files, spilled.stdout, [each.name for each in spilled.stored]) == ((), RESULT.stdout, ["a/b.bin", "c.txt"])
    assert "session s1" in spilled.warnings[0]


async def test_then_outputs_of_which_a_beginning_stays() -> None:
    kept = Kept()
    spilled = await spill_result(RESULT, below(6000), kept)  # type: ignore[arg-type]
    assert kept.files["stdout"] == b"x" * 9000
    assert (spilled.stdout, spilled.stdout_truncated) == ("x" * 4096, True)
    assert (spilled.stderr, spilled.stderr_truncated) == ("short", False)


async def test_what_no_session_takes_is_told() -> None:
    spilled = await spill_result(RESULT, below(6000), Kept(most=1000))  # type: ignore[arg-type]
    assert [(each.name, each.reason) for each in spilled.skipped] == [("a/b.bin", "too large"), ("stdout", "too large")]
    assert [each.name for each in spilled.stored] == ["c.txt"]
