"""Writes the tables of README.md and docs/settings.md from the code, each between `<!-- table: name -->` and `<!-- end -->`.

`python docs/tables.py` writes them, `--check` only says whether they are as they should be.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import typer

from runnerd import hookspecs, job
from runnerd.__main__ import app
from runnerd.config.reference import reference
from runnerd.config.seed import LATER
from runnerd.executors import canaries
from runnerd.plugins import OWN, find_plugins

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs/settings.md")
BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; a `|` in a cell is escaped."""
    head = list(head)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def code(text: str) -> str:
    """Text in backticks, nothing for nothing."""
    return f"`{text}`" if text else ""


def settings() -> str:
    """Every setting of the bundled parts, with the names of its variables; those of languages once for all."""
    rows = {}
    for row in reference(find_plugins()):
        setting, variables = row.setting, row.variables
        if language := re.match(r"languages\.(\w+)\.", setting):
            setting = setting.replace(language[1], "<code>", 1)
            variables = tuple(re.sub(rf"_{language[1].upper()}(_|$)", r"_<CODE>\1", name, count=1) for name in variables)
        rows[setting] = (code(setting), " ".join(map(code, variables)), code(row.default), row.unit, row.meaning)
    return table(("Setting", "Environment", "Default", "Unit", "Meaning"), rows.values())


def later() -> str:
    """Variables of the source system that are accepted without effect, with the reason."""
    names: dict[str, list[str]] = {}
    for name, reason in LATER.items():
        names.setdefault(reason, []).append(name)
    return table(("Variables", "Why"), ((" ".join(map(code, group)), reason) for reason, group in names.items()))


def commands() -> str:
    """Every command in the words of its own help."""
    context = typer.Context(typer.main.get_command(app))
    rows = []
    for name, command in sorted(context.command.commands.items()):  # type: ignore[attr-defined]
        below = " ".join(map(code, getattr(command, "commands", ())))
        rows.append((code(f"runnerd {name}") + (f": {below}" if below else ""), (command.help or "").partition("\n\n")[0]))
    return table(("Command", "What it does"), rows)


def statuses() -> str:
    """The closed list, in the words of its docstring."""
    entries = re.findall(r"`(\w+)` (.*?)(?= · |\.?$)", _documented(job, "Status"))
    assert tuple(name for name, _ in entries) == job.STATUSES, "the docstring of Status explains other words than Status has"
    return table(("Status", "Meaning"), ((code(name), meaning) for name, meaning in entries))


def languages() -> str:
    """The bundled languages, by code."""
    found = find_plugins()
    bundled = [code for plugin in found.found if plugin.origin.distribution == OWN for code in plugin.languages]
    rows = []
    for language in (found.languages[code] for code in bundled):
        packages = " ".join((*language.install.debian, *(f"npm:{package}" for package in language.install.npm)))
        names = ", ".join(map(code, language.aliases))
        rows.append((code(language.code), language.name, names, " ".join(map(code, language.suffixes)), str(language.warm), packages))
    return table(("Code", "Language", "Also", "Files", "Warm", "Packages"), rows)


def hooks() -> str:
    """Every hook with its exact signature."""
    rows = []
    for name, hook in vars(hookspecs).items():
        if getattr(hook, "runnerd_spec", None) is not None:
            source = inspect.getsource(hook)
            signature = re.search(r"def (.*?):\n", source, re.DOTALL)
            assert signature is not None, f"{name} has no signature"
            rows.append((code(signature[1]), inspect.getdoc(hook) or ""))
    return table(("Hook", "What it returns"), rows)


def probes() -> str:
    """The attacks that a level has to withstand."""
    return "".join(f"- {name}\n" for name in canaries.PROBES)


def _documented(module: object, name: str) -> str:
    """The docstring under an assignment, in one line."""
    body = ast.parse(inspect.getsource(module)).body  # type: ignore[arg-type]
    for node, below in pairwise(body):
        assigned = isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
        if assigned and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            return " ".join(str(below.value.value).split())
    raise LookupError(f"{name} has no docstring")


TABLES = {
    "commands": commands,
    "settings": settings,
    "later": later,
    "statuses": statuses,
    "languages": languages,
    "hooks": hooks,
    "probes": probes,
}


def written(page: str) -> str:
    """A page with all its tables as the code says. Raises KeyError for a table that nobody makes."""
    return BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[4], page)


def main() -> int:
    """Write or check; 1 where a check fails."""
    stale = [(page, fresh) for page in PAGES if (fresh := written(page.read_text())) != page.read_text()]
    for page, fresh in stale:
        if "--check" in sys.argv[1:]:
            sys.stderr.write(f"{page.relative_to(ROOT)}: its tables are not what the code says: run `make docs`\n")
        else:
            page.write_text(fresh)
            sys.stdout.write(f"{page.relative_to(ROOT)}: tables written\n")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
