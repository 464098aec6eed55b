"""Discovery: each plugin by itself, a broken one left out whole and remembered."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from distributions import LANGUAGE, Site, site
from runnerd.plugins import Plugins, find_plugins

PERL = LANGUAGE.format(code="pl", aliases='"perl",')
LUA = LANGUAGE.format(code="lua", aliases="")


@pytest.fixture
def dists(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def broken(plugins: Plugins) -> str:
    """The reason of the only broken plugin; Perl, beside it, must have survived."""
    assert set(plugins.languages) == {"pl"}
    (one,) = plugins.broken
    assert one.origin.distribution == "runnerd-zbad"
    assert one.origin.version == "2.5"
    assert one.reason
    return str(one)


def test_finds_what_a_plugin_adds(dists: Site) -> None:
    dists.install("runnerd-perl", PERL, version="0.3")
    plugins = find_plugins(dists.entry_points())
    assert not plugins.broken
    assert plugins.languages["pl"].run == ("pl", "{file}")
    assert plugins.aliases == {"perl": "pl"}
    (found,) = plugins.found
    assert found.languages == ("pl",)
    assert str(found.origin) == "runnerd_perl (runnerd-perl 0.3)"


BROKEN = {
    "import error": ("import surely_not_there", "ModuleNotFoundError: No module named 'surely_not_there'"),
    "syntax error": ("def (", "SyntaxError"),
    "exit while importing": ("raise SystemExit(3)", "SystemExit: 3"),
    "wrong signature": (
        "from runnerd import hookimpl\n@hookimpl\ndef register_languages(daemon): return []",
        "Argument(s) {'daemon'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "misspelt hook": ("from runnerd import hookimpl\n@hookimpl\ndef register_langauges(): return []", "unknown hook 'register_langauges'"),
    "no hook": ("def register_languages(): return []", "implements no hook: decorate its functions with @hookimpl"),
    "exception in the hook": (
        "from runnerd import hookimpl\n@hookimpl\ndef register_stores(): return 1 / 0",
        "ZeroDivisionError: division by zero",
    ),
    "exception while iterating": (
        "from runnerd import hookimpl\n@hookimpl\ndef register_stores():\n    yield from ()\n    raise KeyError('x')",
        "KeyError",
    ),
    "rubbish instead of a list": (
        "from runnerd import hookimpl\n@hookimpl\ndef register_languages(): return 5",
        "returned int 5: return a list",
    ),
    "text instead of a list": ("from runnerd import hookimpl\n@hookimpl\ndef register_languages(): return 'py'", "returned str 'py'"),
    "rubbish in the list": (
        "from runnerd import hookimpl\n@hookimpl\ndef register_languages(): return ['py']",
        "return runnerd.Language objects",
    ),
    "none": ("from runnerd import hookimpl\n@hookimpl\ndef register_languages(): pass", "returned NoneType None: return a list"),
    "async": ("from runnerd import hookimpl\n@hookimpl\nasync def register_languages(): return []", "hooks are plain functions"),
    "instance, not type": (
        "from runnerd import Store, hookimpl\nclass S(Store, tag='s', frozen=True, kw_only=True): pass\n"
        "@hookimpl\ndef register_stores(): return [S()]",
        "return subclasses of runnerd.Store, not instances",
    ),
    "ingress as store": (
        "from runnerd import Ingress, hookimpl\nclass S(Ingress, tag='s', frozen=True, kw_only=True): pass\n"
        "@hookimpl\ndef register_stores(): return [S]",
        "register_stores returned",
    ),
    "kind that is no token": (
        "from runnerd import Store, hookimpl\nclass S(Store, tag='a b', frozen=True, kw_only=True): pass\n"
        "@hookimpl\ndef register_stores(): return [S]",
        "the tag 'a b' is no name for a kind",
    ),
    "duplicate code": (LANGUAGE.format(code="pl", aliases=""), "the language 'pl' is taken by runnerd_perl (runnerd-perl 1.0)"),
    "alias that is another's code": (LANGUAGE.format(code="x", aliases='"pl",'), "the language 'pl' is taken by"),
    "code that is another's alias": (LANGUAGE.format(code="perl", aliases=""), "the language 'perl' is taken by"),
    "alias twice": (LANGUAGE.format(code="x", aliases='"y", "y"'), "the language 'y' is taken by"),
    "code that is no token": (LANGUAGE.format(code="p.l", aliases=""), "code: 'p.l' is no name"),
    "wrong type of field": (
        LANGUAGE.format(code="x", aliases="").replace('("x", "{file}")', '"x {file}"'),
        "language 'x': Expected `array`",
    ),
    "file outside": (LANGUAGE.format(code="x", aliases="").replace("main.x", "../main.x"), "filename: '../main.x' must be a relative path"),
    "bad pattern": (LANGUAGE.format(code="x", aliases="").replace("image=", "filename_pattern='(', image="), "language 'x':"),
    "negative warm": (LANGUAGE.format(code="x", aliases="").replace("image=", "warm=-1, image="), "warm must be 0 or more"),
    "multiplier 0": (LANGUAGE.format(code="x", aliases="").replace("image=", "wall_multiplier=0.0, image="), "multipliers above 0"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_plugin_falls_alone(dists: Site, case: str) -> None:
    source, reason = BROKEN[case]
    dists.install("runnerd-perl", PERL)
    dists.install("runnerd-zbad", source, version="2.5", module="zz_bad")
    plugins = find_plugins(dists.entry_points())
    assert reason in broken(plugins)
    assert plugins.broken[0].traceback.startswith("Traceback")


def test_broken_plugin_adds_nothing_at_all(dists: Site) -> None:
    """A good language beside a bad store: neither is taken, and the names stay free for others."""
    bad_store = "\n@hookimpl\ndef register_stores(): return [5]\n"
    dists.install("runnerd-a", LUA + bad_store, module="a_bad")
    dists.install("runnerd-lua", LUA)
    plugins = find_plugins(dists.entry_points())
    assert [str(found.origin) for found in plugins.found] == ["runnerd_lua (runnerd-lua 1.0)"]
    assert set(plugins.languages) == {"lua"}


def test_misspelt_hook_is_not_blamed_on_the_next_plugin(dists: Site) -> None:
    for name in ("a", "b", "c"):
        dists.install(f"runnerd-{name}", "from runnerd import hookimpl\n@hookimpl\ndef register_x(): return []", module=f"{name}_bad")
    dists.install("runnerd-perl", PERL, module="d_good")
    plugins = find_plugins(dists.entry_points())
    assert [one.origin.name for one in plugins.broken] == ["a_bad", "b_bad", "c_bad"]
    assert all(one.origin.module in one.reason for one in plugins.broken)
    assert set(plugins.languages) == {"pl"}


def test_third_party_does_not_take_the_place_of_a_bundled_plugin(dists: Site) -> None:
    dists.install("aaa-first-by-name", LANGUAGE.format(code="py", aliases=""), module="aaa_first")
    dists.install("runnerd", LANGUAGE.format(code="py", aliases=""), module="bundled_python")
    plugins = find_plugins(dists.entry_points())
    assert [found.origin.distribution for found in plugins.found] == ["runnerd"]
    assert "is taken by bundled_python (runnerd 1.0)" in plugins.broken[0].reason


def test_one_module_under_two_names(dists: Site) -> None:
    dists.install("runnerd-perl", PERL)
    dists.install("runnerd-zperl", PERL, module="runnerd_perl", name="again")
    plugins = find_plugins(dists.entry_points())
    assert set(plugins.languages) == {"pl"}
    assert len(plugins.broken) == 1


def test_bundled_plugins_load() -> None:
    assert [str(broken) for broken in find_plugins().broken] == []
