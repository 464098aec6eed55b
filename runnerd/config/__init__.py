"""All settings, read once: runnerd.toml, `.env`, the environment, flags; the later beat the earlier.

`sources` reads what was written, `schema` knows every setting, `tables` makes the checked `tree`; `reference` describes it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from ..errors import ConfigError
from ..plugins import Plugins
from .kinds import choose_kinds, settings_by_kind, unused_names
from .schema import Setting, settings_of
from .seed import LATER
from .sources import ENVIRONMENT, Assigned, Given, Path_, Table, read_dotenv, read_environment, read_flags, read_toml
from .tables import Findings, build_settings, closest
from .tree import LanguageSettings, Settings, StoreSettings, default_state_dir

__all__ = ["Config", "LanguageSettings", "Setting", "Settings", "StoreSettings", "load_config", "settings_of"]

FILE = "runnerd.toml"
"""Read from the working directory, unless --config or RUNNERD_CONFIG names another file."""
DOTENV = ".env"
_FILE_VARIABLE = "RUNNERD_CONFIG"
_KUBERNETES = re.compile(r"RUNNERD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PORT|PROTO|ADDR))?)")
"""What Kubernetes sets in every pod for a service of our name."""
_NO_SETTINGS = (_FILE_VARIABLE, "RUNNERD_URL")
"""Variables of the command line; the latter names the daemon that `runnerd run` speaks to."""
_PREFIXES = ("POD_POOL_", "LANG_IMAGE_")


class Config(Struct, frozen=True, kw_only=True):
    """Checked settings, and where they come from."""

    settings: Settings
    written: Table
    """What was written, each value with its place."""
    notes: tuple[str, ...]
    """What people may not expect: variables without effect, values that another one beats."""


def load_config(
    plugins: Plugins,
    *,
    file: str = "",
    flags: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Config:
    """Read and check everything. Raises ConfigError with all problems at once.

    `file` stands in for runnerd.toml, `flags` are `table.field=value`; files are found from `directory`.
    """
    environ = os.environ if environ is None else environ
    directory = directory or Path()
    findings = Findings(plugins=plugins)
    root = _file(file or environ.get(_FILE_VARIABLE, ""), directory, findings)
    settings = settings_of(plugins)
    assigned = [*read_dotenv(directory / DOTENV, DOTENV, findings.problems), *read_environment(environ)]
    flagged = read_flags(flags, findings.problems)
    kinds = choose_kinds(root, assigned, {path for path, _ in flagged}, settings, findings)
    _assign(root, assigned, list(settings_by_kind(settings, kinds)), unused_names(settings, kinds), findings)
    _flag(root, flagged, settings, findings)
    tree = build_settings(root, findings, default_state_dir(environ))
    if tree is None:
        raise ConfigError(*dict.fromkeys([*findings.problems, *findings.hints]))
    return Config(settings=tree, written=root, notes=tuple(dict.fromkeys(findings.notes)))


def _file(named: str, directory: Path, findings: Findings) -> Table:
    if named:
        return read_toml(directory / named, named, findings.problems)
    if (directory / FILE).exists():
        return read_toml(directory / FILE, FILE, findings.problems)
    return Table(place="no runnerd.toml")


def _assign(root: Table, assigned: list[Assigned], settings: list[Setting], unused: Mapping[str, str], findings: Findings) -> None:
    paths: dict[str, dict[Path_, None]] = {}
    for setting in settings:
        for name in setting.names:
            paths.setdefault(name, {})[setting.path] = None
    used: dict[tuple[int, Path_], Assigned] = {}
    # RUNNERD_ names come last: of two names for one setting in one source, they win
    for one in sorted(assigned, key=lambda one: (one.rank, one.name.startswith("RUNNERD_"))):
        if one.name not in paths:
            _unknown(one, paths, unused, findings)
        elif one.name.endswith("_PORT") and "://" in one.text:
            findings.notes.append(f"{one.place}: has no effect: it is what Kubernetes sets for a service of that name")
        elif one.text.strip():
            for path in paths[one.name]:
                other = used.setdefault((one.rank, path), one)
                if other.name != one.name:
                    findings.notes.append(f"{other.place}: has no effect: {one.name} sets {'.'.join(path)} as well, and wins")
                root.put(path, Given(value=one.text, place=one.place, rank=one.rank, variable=one.name))


def _unknown(one: Assigned, paths: Mapping[str, object], unused: Mapping[str, str], findings: Findings) -> None:
    """A variable that is no setting: a problem where it was surely meant for runnerd."""
    if one.name in unused:
        if one.text.strip():
            findings.notes.append(f"{one.place}: has no effect: {unused[one.name]}")
    elif one.name in LATER:
        findings.notes.append(f"{one.place}: has no effect yet: {LATER[one.name]}")
    elif one.name.startswith(_PREFIXES):
        code = one.name.removeprefix(_PREFIXES[0]).removeprefix(_PREFIXES[1]).lower()
        findings.missing("language", code, findings.plugins.languages, one.place)
    elif one.name.startswith("RUNNERD_") and one.name not in _NO_SETTINGS and not _is_kubernetes(one):
        findings.problems.append(f"{one.place}: is no setting{closest(one.name, paths)}")
    elif one.rank < ENVIRONMENT and (near := closest(one.name, [*paths, *unused, *LATER])):
        findings.notes.append(f"{one.place}: is no setting{near}")


def _is_kubernetes(one: Assigned) -> bool:
    return _KUBERNETES.fullmatch(one.name) is not None or (one.name.endswith("_PORT") and "://" in one.text)


def _flag(root: Table, flags: list[tuple[Path_, Given]], settings: list[Setting], findings: Findings) -> None:
    known = {setting.path for setting in settings}
    for path, given in flags:
        if path in known:
            root.put(path, given)
        else:
            names = [".".join(path) for path in known]
            findings.problems.append(f"{given.place}: is no setting{closest('.'.join(path), names)}")
