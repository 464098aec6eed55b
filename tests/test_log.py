"""Lines of structlog and of the standard library, where the settings say."""

import json
import logging
import warnings
from pathlib import Path

import pytest
import structlog

from runnerd import ConfigError
from runnerd.log import LogSettings, open_log


def test_both_libraries_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "logs" / "runnerd.log"
    with open_log(LogSettings(file=str(file), format="json")):
        structlog.get_logger("runnerd.a").info("it happened", job="j", n=1)
        logging.getLogger("other").warning("so did %s", "this")
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            structlog.get_logger("runnerd.a").exception("it failed")
    first, second, third = (json.loads(line) for line in file.read_text().splitlines())
    assert (first["event"], first["job"], first["n"], first["level"], first["logger"]) == ("it happened", "j", 1, "info", "runnerd.a")
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"]) == ("so did this", "warning")
    assert "ZeroDivisionError: division" in third["exception"]
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["it happened", "so did this", "it failed"]


def test_text_in_a_file_has_no_colors(tmp_path: Path) -> None:
    file = tmp_path / "runnerd.log"
    with open_log(LogSettings(file=str(file), format="text")):
        structlog.get_logger("runnerd.a").error("it happened")
    assert "it happened" in file.read_text()
    assert "\x1b" not in file.read_text()


def test_everything_is_as_before_afterwards(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("runnerd.access").disabled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_log(LogSettings(file=str(tmp_path / "x"), access=False, level="error")):
            assert root.level == logging.ERROR
    assert (root.handlers[:], root.level, logging.getLogger("runnerd.access").disabled) == before
    assert not structlog.is_configured()


@pytest.mark.parametrize(("level", "threshold"), [("WARN", 30), (" Error ", 40), ("fatal", 50), ("debug", 10)])
def test_levels_in_any_spelling(level: str, threshold: int) -> None:
    assert LogSettings(level=level).threshold() == threshold


def test_a_file_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"log\.file: .*/file/log can't be written"), open_log(LogSettings(file=f"{tmp_path}/file/log")):
        pass
