"""Settings that bound the same thing are named, with the one that holds."""

from pathlib import Path

import pytest

from runnerd.config import load_config
from runnerd.config.conflicts import conflicts
from runnerd.daemon import effective_languages
from runnerd.plugins import find_plugins


def found(tmp_path: Path, *flags: str) -> list[str]:
    plugins = find_plugins()
    settings = load_config(plugins, flags=flags, environ={}, directory=tmp_path).settings
    return list(conflicts(settings, effective_languages(settings, plugins)))


def test_defaults_do_not_conflict(tmp_path: Path) -> None:
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        (
            "local.cpu_cores=0.5",
            "limits.cpu_cores = 1 and local.cpu_cores = 0.5 bound the same thing: the smaller one, local.cpu_cores, holds",
        ),
        ("local.tmp_bytes=1Gi", "local.tmp_bytes = 1073741824 and limits.memory_bytes, as such files count as memory, = 536870912 bound"),
        ("limits.file_bytes=200Mi,files.total_bytes=200Mi", "the smaller one, local.workspace_bytes, holds"),
        ("limits.file_bytes=60Mi", "the smaller one, files.total_bytes, holds"),
        ("executor.kind=pods,pods.memory_bytes=256Mi", "the smaller one, pods.memory_bytes, holds"),
        ("executor.kind=pods,pods.cpu_cores=0.5", "the smaller one, pods.cpu_cores, holds"),
        ("executor.kind=pods,pods.tmp_bytes=1Gi", "pods.tmp_bytes = 1073741824 and limits.memory_bytes, as such files count"),
        ("executor.kind=pods,pods.deadline_s=100", "the smaller one, pods.deadline_s, holds"),
        ("limits.files=60", "the smaller one, files.most, holds"),
        ("state.archive_after_s=3h", "the smaller one, state.ttl_s, holds"),
        ("sessions.id_length=32", "LibreChat takes ids of 21 characters only"),
        ("limits.cpu_s=100", "limits.cpu_s = 100 and limits.wall_s times limits.cpu_cores = 30 bound the same thing"),
        ("pool.alive=3", "languages.py.warm = 5 and pool.alive = 3 bound the same thing: the smaller one, pool.alive, holds"),
    ],
)
def test_the_smaller_one_is_named(tmp_path: Path, flag: str, text: str) -> None:
    (line,) = found(tmp_path, *flag.split(","))
    assert text in line


def test_warm_sandboxes_of_a_pool_that_is_off(tmp_path: Path) -> None:
    assert found(tmp_path, "pool.enabled=no", "languages.py.warm=3") == ["languages.py.warm = 3 has no effect: pool.enabled is false"]
