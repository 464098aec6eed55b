"""Finds the plugins of the entry-point group `runnerd`, one by one.

A broken plugin is left out whole and remembered with its distribution and traceback; whether the daemon can do
without it, `config` decides: it can, unless a setting names what is then missing.
"""

import re
import traceback
from collections.abc import Coroutine, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec
import pluggy
from msgspec import Struct

from . import hookspecs
from .errors import PluginError, Rejected
from .job import TOKEN
from .spec import Ingress, Language
from .store import Store
from .validity import check_name

GROUP = "runnerd"
_ALIAS = re.compile(r"[^\s/]{1,64}")
OWN = "runnerd"
"""The distribution whose plugins come first: a third party's can't take the place of a bundled one."""


class Origin(Struct, frozen=True, kw_only=True, order=True):
    """Where a plugin comes from: its distribution, and its entry point there."""

    distribution: str
    version: str
    name: str
    module: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


class Plugin(Struct, frozen=True, kw_only=True):
    """A plugin that was loaded, with the names of all that it adds."""

    origin: Origin
    languages: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    ingress: tuple[str, ...] = ()


class Broken(Struct, frozen=True, kw_only=True):
    """A plugin that was left out."""

    origin: Origin
    reason: str
    """One line."""
    traceback: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


class Plugins(Struct, frozen=True, kw_only=True):
    """All that the plugins of this installation add, and which of them are broken."""

    languages: Mapping[str, Language] = {}
    """By code."""
    aliases: Mapping[str, str] = {}
    """Code by alias; codes are not among them."""
    stores: Mapping[str, type[Store]] = {}
    """By kind."""
    ingress: Mapping[str, type[Ingress]] = {}
    """By kind."""
    found: tuple[Plugin, ...] = ()
    broken: tuple[Broken, ...] = ()


def find_plugins(found: Iterable[EntryPoint] | None = None) -> Plugins:
    """Load every plugin of this installation, or those of `found`. Never raises for what a plugin did."""
    points = entry_points(group=GROUP) if found is None else found
    collection = _Collection()
    for origin, point in sorted(((_origin(point), point) for point in points), key=_rank):
        collection.add(origin, point)
    return collection.plugins()


def kind_of(type_: type[Store] | type[Ingress]) -> str:
    """The name under which runnerd.toml knows a store or ingress type."""
    return str(type_.__struct_config__.tag)


def _rank(item: tuple[Origin, EntryPoint]) -> tuple[bool, Origin]:
    return item[0].distribution != OWN, item[0]


def _origin(point: EntryPoint) -> Origin:
    return Origin(
        name=point.name,
        distribution=point.dist.name if point.dist else "?",
        version=point.dist.version if point.dist else "?",
        module=point.value,
    )


class _Addition(Struct, frozen=True, kw_only=True):
    """What one plugin wants to add; correct by itself, not yet checked against the other plugins."""

    languages: tuple[Language, ...]
    stores: tuple[type[Store], ...]
    ingress: tuple[type[Ingress], ...]

    def names(self) -> list[tuple[str, str]]:
        """Every name that it takes, with what is named."""
        return [
            *(("language", name) for language in self.languages for name in (language.code, *language.aliases)),
            *(("store kind", kind_of(store)) for store in self.stores),
            *(("ingress kind", kind_of(ingress)) for ingress in self.ingress),
        ]


class _Collection:
    """The plugins so far. Each is taken whole or not at all."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.hookspec.project_name)
        self._manager.add_hookspecs(hookspecs)
        self._owners: dict[tuple[str, str], Origin] = {}
        self._additions: list[tuple[Origin, _Addition]] = []
        self._broken: list[Broken] = []

    def add(self, origin: Origin, point: EntryPoint) -> None:
        try:
            addition = self._load(origin, point)
            self._claim(origin, addition)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything, and falls alone
            trace = "".join(traceback.format_exception(error))
            self._broken.append(Broken(origin=origin, reason=_reason(error), traceback=trace))
        else:
            self._additions.append((origin, addition))

    def plugins(self) -> Plugins:
        added = [addition for _, addition in self._additions]
        languages = [language for addition in added for language in addition.languages]
        return Plugins(
            languages={language.code: language for language in languages},
            aliases={alias: language.code for language in languages for alias in language.aliases},
            stores={kind_of(store): store for addition in added for store in addition.stores},
            ingress={kind_of(ingress): ingress for addition in added for ingress in addition.ingress},
            found=tuple(_plugin(origin, addition) for origin, addition in self._additions),
            broken=tuple(self._broken),
        )

    def _load(self, origin: Origin, point: EntryPoint) -> _Addition:
        module = point.load()
        name = f"{origin.distribution}:{origin.name}"
        try:
            self._manager.register(module, name)
            self._manager.check_pending()
            return self._call(module, name)
        except BaseException:
            # register() keeps even a plugin that it refuses; check_pending() would then blame the next one
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            raise

    def _call(self, module: Any, name: str) -> _Addition:
        """Call the plugin's hooks, its own alone, so that one that raises costs no other plugin."""
        returned: dict[str, tuple[Any, ...]] = {}
        for caller in self._manager.get_hookcallers(module) or ():
            mine = next(impl for impl in caller.get_hookimpls() if impl.plugin_name == name)
            if mine.hookwrapper or mine.wrapper:
                raise PluginError(f"{caller.name} is a wrapper: a plugin only returns what it adds itself")
            returned[caller.name] = _items(caller.name, mine.function())
        if not returned:
            raise PluginError("implements no hook: decorate its functions with @hookimpl, imported from runnerd")
        addition = _Addition(
            languages=returned.get("register_languages", ()),
            stores=returned.get("register_stores", ()),
            ingress=returned.get("register_ingress", ()),
        )
        for language in addition.languages:
            check_language(language)
        for store in addition.stores:
            _check_type(store, Store, "register_stores")
        for ingress in addition.ingress:
            _check_type(ingress, Ingress, "register_ingress")
        return addition

    def _claim(self, origin: Origin, addition: _Addition) -> None:
        claimed: set[tuple[str, str]] = set()
        for what, name in addition.names():
            owner = origin if (what, name) in claimed else self._owners.get((what, name))
            if owner is not None:
                raise PluginError(f"the {what} {name!r} is taken by {owner}")
            claimed.add((what, name))
        self._owners.update(dict.fromkeys(claimed, origin))


def check_language(language: object) -> None:
    """Refuse a language that could not work anywhere. Raises PluginError, naming the field and the fix."""
    if not isinstance(language, Language):
        raise PluginError(f"register_languages returned {_shown(language)}: return runnerd.Language objects")
    try:
        msgspec.convert(msgspec.to_builtins(language), Language)
    except (msgspec.ValidationError, TypeError) as error:
        raise PluginError(f"language {language.code!r}: {error}") from None
    for field, name in (("code", language.code), *(("aliases", alias) for alias in language.aliases)):
        # aliases such as c++ occur in bodies only, codes in subjects and in variables' names as well
        if not (TOKEN if field == "code" else _ALIAS).fullmatch(name):
            raise PluginError(f"language {language.code!r}: {field}: {name!r} is no name for a language")
    try:
        check_name(language.filename, "filename")
        for pattern in (language.filename_pattern or "", *language.main_patterns):
            re.compile(pattern)
    except (Rejected, re.error) as error:
        raise PluginError(f"language {language.code!r}: {error}") from None
    if not language.run or not language.version or language.compile == ():
        raise PluginError(f"language {language.code!r}: run, version and compile name a program, or compile is None")
    if language.warm < 0 or language.wall_multiplier <= 0 or language.memory_multiplier <= 0:
        raise PluginError(f"language {language.code!r}: warm must be 0 or more, multipliers above 0")


def _check_type(type_: object, base: type[Store] | type[Ingress], hook: str) -> None:
    if not isinstance(type_, type) or not issubclass(type_, base):
        raise PluginError(f"{hook} returned {_shown(type_)}: return subclasses of runnerd.{base.__name__}, not instances")
    kind = type_.__struct_config__.tag
    if not isinstance(kind, str) or not TOKEN.fullmatch(kind):
        raise PluginError(f"{type_.__name__}: the tag {kind!r} is no name for a kind")


def _items(hook: str, returned: object) -> tuple[Any, ...]:
    if isinstance(returned, Coroutine):
        returned.close()
        raise PluginError(f"{hook} is an async function: hooks are plain functions")
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes | Mapping):
        raise PluginError(f"{hook} returned {_shown(returned)}: return a list")
    return tuple(returned)


def _plugin(origin: Origin, addition: _Addition) -> Plugin:
    return Plugin(
        origin=origin,
        languages=tuple(language.code for language in addition.languages),
        stores=tuple(kind_of(store) for store in addition.stores),
        ingress=tuple(kind_of(ingress) for ingress in addition.ingress),
    )


def _shown(thing: object) -> str:
    return f"{type(thing).__name__} {thing!r}"[:80]


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
