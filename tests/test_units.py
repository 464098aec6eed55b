"""What people write, as values."""

from typing import Annotated, Literal

import pytest
from msgspec import Meta

from runnerd.config.units import unit_of, value_of

MI = 1 << 20
Share = Annotated[float, Meta(gt=0, le=1)]


@pytest.mark.parametrize(
    ("text", "unit", "variable", "value"),
    [
        ("512", "bytes", "", 512),
        ("512", "bytes", "MAX_MEMORY_MB", 512 * MI),
        ("1.5", "bytes", "MAX_MEMORY_MB", 3 * MI // 2),
        ("512Mi", "bytes", "", 512 * MI),
        ("512Mi", "bytes", "MAX_MEMORY_MB", 512 * MI),
        ("512MiB", "bytes", "", 512 * MI),
        ("512MB", "bytes", "", 512_000_000),
        ("1G", "bytes", "", 10**9),
        (" 2 gi ", "bytes", "", 2 << 30),
        ("1_000", "", "", 1000),
    ],
)
def test_whole_numbers(text: str, unit: str, variable: str, value: int) -> None:
    assert value_of(text, int, unit, variable) == value


@pytest.mark.parametrize(
    ("text", "unit", "variable", "value"),
    [
        ("30", "s", "", 30),
        ("1.5", "s", "MAX_EXECUTION_TIME", 1.5),
        ("30s", "s", "", 30),
        ("500ms", "s", "", 0.5),
        ("2m", "s", "", 120),
        ("24", "s", "SESSION_TTL_HOURS", 86400),
        ("30s", "ms", "", 30_000),
        ("30", "ms", "RUNNERD_X_GRACE_MS", 30),
        ("2", "ms", "X_SECONDS", 2000),
        ("50000", "", "MAX_CPU_QUOTA", 0.5),
        ("500m", "", "K8S_CPU_LIMIT", 0.5),
    ],
)
def test_numbers(text: str, unit: str, variable: str, value: float) -> None:
    assert value_of(text, float, unit, variable) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "type_", "value"),
    [
        ("Yes", bool, True),
        ("0", bool, False),
        ("JSON", Literal["json", "text"], "json"),
        ("a, b,,c ", tuple[str, ...], ("a", "b", "c")),
        ('["a,b", "c"]', tuple[str, ...], ("a,b", "c")),
        ("a,b", str | tuple[str, ...], "a,b"),
        ("none", int | None, None),
        ("7", int | None, 7),
        ("7", Annotated[int, Meta(ge=1)] | None, 7),
        ("0.5", Share, 0.5),
        ('{"py": 5}', dict[str, int], {"py": 5}),
        ("none", str, "none"),
    ],
)
def test_other_types(text: str, type_: object, value: object) -> None:
    assert value_of(text, type_, "") == value


@pytest.mark.parametrize(
    ("given", "type_", "unit", "message"),
    [
        ("512 megs", int, "bytes", "a size such as 512Mi"),
        ("soon", float, "s", "a time such as 30s"),
        ("1.5", int, "", "write a whole number"),
        ("5s", int, "bytes", "a size such as"),
        ("maybe", bool, "", "write true or false"),
        ("0", Annotated[int, Meta(ge=1)], "", "expected whole number >= 1"),
        ("2", Share, "", "expected number <= 1.0"),
        (True, int, "", "expected whole number, got true or false"),
        ([1], tuple[str, ...], "", "expected text, got whole number"),
        ("[1", tuple[str, ...], "", "or a JSON array"),
        ("xml", Literal["json", "text"], "", "write one of json, text"),
        ("nan", float, "", "write a number"),
    ],
)
def test_errors_say_what_would_be_right(given: object, type_: object, unit: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        value_of(given, type_, unit)
    assert message in str(caught.value)


def test_unit_of() -> None:
    assert [unit_of(name) for name in ("memory_bytes", "wall_s", "grace_ms", "processes", "bytes")] == ["bytes", "s", "ms", "", "bytes"]
