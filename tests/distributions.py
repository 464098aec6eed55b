"""Distributions made for a test: a module, its metadata and its entry points, as an installer would leave them."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from textwrap import dedent

LANGUAGE = """
from runnerd import Language, hookimpl

@hookimpl
def register_languages():
    return [Language(code="{code}", name="{code}", filename="main.{code}", run=("{code}", "{{file}}"), image="{code}",
                     version=("{code}", "-v"), hello="print('hi')", aliases=({aliases}))]
"""


class Site:
    """A directory of installed distributions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.modules: list[str] = []

    def install(self, distribution: str, source: str, *, version: str = "1.0", module: str = "", name: str = "") -> None:
        """A distribution of one module with one entry point."""
        module = module or distribution.replace("-", "_")
        self.modules.append(module)
        (self.path / f"{module}.py").write_text(dedent(source))
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[runnerd]\n{name or module} = {module}\n")

    def entry_points(self) -> list[EntryPoint]:
        """All entry points of the directory."""
        importlib.invalidate_caches()
        return [point for dist in distributions(path=[str(self.path)]) for point in dist.entry_points.select(group="runnerd")]


@contextmanager
def site(path: Path) -> Iterator[Site]:
    """A new directory of distributions on the import path, while the block is open."""
    made = Site(path)
    sys.path.insert(0, str(path))
    try:
        yield made
    finally:
        sys.path.remove(str(path))
        for module in made.modules:
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
