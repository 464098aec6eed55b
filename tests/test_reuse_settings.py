"""No sandbox is reused by accident: it takes two settings, and what that gives up is said wherever people look."""

import json
from pathlib import Path

import pytest
from msgspec import structs
from typer.testing import CliRunner

from runnerd import ConfigError
from runnerd.__main__ import app
from runnerd.config import Settings, load_config
from runnerd.config.conflicts import conflicts
from runnerd.daemon import effective_languages
from runnerd.plugins import Plugins, find_plugins

PLUGINS = find_plugins()


def loaded(tmp_path: Path, *flags: str, **environ: str) -> Settings:
    return load_config(PLUGINS, flags=flags, environ=environ, directory=tmp_path).settings


def reuse(settings: Settings, plugins: Plugins = PLUGINS) -> set[str]:
    return {language.reuse for language in effective_languages(settings, plugins).values()}


def test_by_default_nothing_is_reused_and_nothing_may_be(tmp_path: Path) -> None:
    settings = loaded(tmp_path)
    assert (settings.isolation.reuse, settings.pool.reuse, reuse(settings)) == ((), "job", {"job"})


def test_a_plugin_can_not_ask_for_it(tmp_path: Path) -> None:
    eager = {code: structs.replace(language, reuse="tenant") for code, language in PLUGINS.languages.items()}
    assert reuse(loaded(tmp_path), structs.replace(PLUGINS, languages=eager)) == {"job"}


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["languages.py.reuse=session"], "languages.py.reuse = session"),
        (["pool.reuse=tenant"], "pool.reuse = tenant"),
        (["pool.reuse=tenant", "isolation.reuse=session"], "pool.reuse = tenant"),
    ],
)
def test_one_setting_alone_is_refused_with_what_it_would_give_up(tmp_path: Path, flags: list[str], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, *flags)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name}: isolation.reuse does not allow it: a sandbox serves")
    assert "RUNNERD_ISOLATION_REUSE" in problem


def test_allowing_it_changes_nothing_by_itself(tmp_path: Path) -> None:
    assert reuse(loaded(tmp_path, "isolation.reuse=session,tenant")) == {"job"}


def test_for_one_language_or_for_all_but_one(tmp_path: Path) -> None:
    settings = loaded(tmp_path, RUNNERD_ISOLATION_REUSE="session", RUNNERD_LANGUAGES_PY_REUSE="session")
    assert {code for code, language in effective_languages(settings, PLUGINS).items() if language.reuse != "job"} == {"py"}
    settings = loaded(tmp_path, "isolation.reuse=session", "pool.reuse=session", "languages.py.reuse=job")
    assert {code for code, language in effective_languages(settings, PLUGINS).items() if language.reuse == "job"} == {"py"}


def test_what_it_gives_up_is_noted(tmp_path: Path) -> None:
    def noted(*flags: str) -> list[str]:
        settings = loaded(tmp_path, "isolation.reuse=session,tenant", *flags)
        return list(conflicts(settings, effective_languages(settings, PLUGINS)))

    (line,) = noted("languages.py.reuse=session")
    assert line.startswith("languages.py: reuse = session: a sandbox serves the jobs of one session until it is idle")
    (line,) = noted("languages.py.reuse=tenant", "executor.kind=pods")
    assert line.startswith("languages.py: reuse = tenant: a sandbox serves one tenant's jobs one after the other")
    (line,) = noted("languages.py.reuse=tenant")
    assert line == "languages.py: reuse = tenant has no effect on this machine: a cell serves one tenant at a time in any case"


def test_runnerd_languages_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--set", "isolation.reuse=session", "--set", "languages.py.reuse=session"]
    rows = json.loads(CliRunner().invoke(app, ["languages", "--json", *flags]).stdout)
    assert {row["code"]: row["reuse"] for row in rows if row["code"] in ("py", "js")} == {"py": "session", "js": "job"}
