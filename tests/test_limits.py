"""What a job may use: by the settings, its language and its own wish."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_executor import a_language
from runnerd import File, Job, Limits, Rejected
from runnerd.limits import LimitSettings, allowed, check_input, effective

PY = a_language("py")
NAMES = Limits.__struct_fields__
SETTINGS = LimitSettings()


def job(**limits: object) -> Job:
    return Job(code="", limits=Limits(**limits))  # type: ignore[arg-type]


def test_a_job_that_asks_for_nothing_gets_the_settings() -> None:
    limits = effective(job(), PY, SETTINGS)
    assert limits == Limits(
        wall_s=30, cpu_s=30, memory_bytes=512 << 20, processes=512, open_files=1024, output_bytes=1 << 20, file_bytes=10 << 20, files=10
    )


def test_a_job_may_ask_for_less() -> None:
    less = {
        "memory_bytes": 1,
        "processes": 1,
        "open_files": 20,
        "output_bytes": 5,
        "file_bytes": 6,
        "files": 7,
        "wall_s": 0.5,
        "cpu_s": 0.25,
    }
    assert effective(job(**less), PY, SETTINGS) == Limits(**less)  # type: ignore[arg-type]


def test_cpu_time_follows_wall_time_unless_one_says_otherwise() -> None:
    assert effective(job(wall_s=2), PY, SETTINGS).cpu_s == 2
    assert effective(job(wall_s=2), PY, LimitSettings(cpu_s=5)).cpu_s == 5
    assert effective(job(wall_s=2, cpu_s=3), PY, SETTINGS).cpu_s == 3


def test_multipliers_of_the_language_apply_to_time_and_memory() -> None:
    java = a_language("java", wall_multiplier=2.0, memory_multiplier=1.5)
    limits = effective(job(), java, SETTINGS)
    assert (limits.wall_s, limits.cpu_s, limits.memory_bytes, limits.processes) == (60, 60, 768 << 20, 512)
    assert effective(job(wall_s=60), java, SETTINGS).wall_s == 60


@pytest.mark.parametrize("name", NAMES)
def test_more_is_rejected_by_name_with_what_was_asked_and_allowed(name: str) -> None:
    most = getattr(allowed(PY, SETTINGS), name)
    with pytest.raises(Rejected) as caught:
        effective(job(**{name: most + 1}), PY, SETTINGS)
    text = str(caught.value)
    assert text.startswith(f"limits.{name}: {most + 1:.15g} asked, at most {most:.15g} allowed for py")
    assert f"the daemon's setting limits.{name}" in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf, 1e300, 2**200])
def test_nothing_means_unlimited_for_a_job(name: str, value: float) -> None:
    with pytest.raises(Rejected, match=rf"limits\.{name}"):
        effective(job(**{name: value}), PY, SETTINGS)


@pytest.mark.parametrize("name", LimitSettings.__struct_fields__)
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf])
def test_nothing_means_unlimited_for_a_setting(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        LimitSettings(**{name: value})
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({name: value}, LimitSettings)


@pytest.mark.parametrize("name", LimitSettings.__struct_fields__)
def test_a_setting_too_large_to_enforce_is_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=name):
        msgspec.convert({name: 2**60}, LimitSettings)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_impossible_multipliers_are_told(factor: float) -> None:
    for name in ("wall_multiplier", "memory_multiplier"):
        with pytest.raises(ValueError, match=f"language py: {name}"):
            allowed(a_language("py", **{name: factor}), SETTINGS)


@given(st.builds(Limits, **{name: st.none() | st.floats() if name.endswith("_s") else st.none() | st.integers() for name in NAMES}))
def test_whatever_is_asked_ends_within_what_is_allowed(limits: Limits) -> None:
    most = allowed(PY, SETTINGS)
    try:
        got = effective(Job(code="", limits=limits), PY, SETTINGS)
    except Rejected:
        return
    for name in NAMES:
        assert 0 < getattr(got, name) <= getattr(most, name)


@pytest.mark.parametrize(
    ("rejected", "names"),
    [
        (Job(files=tuple(File(name=f"f{i}", text="") for i in range(3))), "input_files"),
        (Job(code="x" * 101), "input_bytes"),
        (Job(code="", stdin="é" * 51), "input_bytes"),
        (Job(code="", stdin_bytes=bytes(101)), "input_bytes"),
        (Job(files=(File(name="a", data=bytes(60)), File(name="b", text="x" * 60))), "input_bytes"),
        (Job(files=(File(name="a", data=bytes(81)),)), "file_bytes"),
        (Job(files=(File(name="dir/" + "é" * 6, text=""),)), "filename_bytes"),
    ],
)
def test_input_is_bounded(rejected: Job, names: str) -> None:
    settings = LimitSettings(input_files=2, input_bytes=100, file_bytes=80, filename_bytes=11)
    with pytest.raises(Rejected, match=f"raise the daemon's setting limits.{names}"):
        check_input(rejected, settings)
    check_input(Job(files=(File(name="dir/" + "é" * 5, data=bytes(80)), File(name="b", text=""))), settings)
