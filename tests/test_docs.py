"""README.md against the code: its tables are generated, its examples run or are read by what would read them."""

import asyncio
import configparser
import importlib.util
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import nats
import pytest
import typer
import yaml

from distributions import site
from hosting import hosted
from runnerd import Job, Result, ToolCall, decode_job, decode_result, encode
from runnerd.__main__ import app
from runnerd.client import connect_jetstream
from runnerd.config import load_config
from runnerd.daemon import Daemon, open_daemon
from runnerd.executors.local import GVISOR, LEVELS
from runnerd.plugins import find_plugins
from runnerd.scheduler import SchedulerSettings
from seed_variables import NAMES

ROOT = Path(__file__).parent.parent
KEY = "sk-0123456789abcdef"
README = (ROOT / "README.md").read_text()
EXAMPLE = re.compile(r"<!-- example: ([a-z-]+) -->\n```[a-z]*\n(.*?)```", re.DOTALL)
EXAMPLES: dict[str, str] = dict(EXAMPLE.findall(README))
COMMAND = typer.main.get_command(app)


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def plugin_of_the_readme(directory: Path) -> Iterator[Any]:
    with site(directory) as made:
        made.install("runnerd-perl", EXAMPLES["plugin"], name="perl")
        yield find_plugins(made.entry_points())


def parse(line: str) -> None:
    """Let the command line read its own words; nothing is run. Raises SystemExit or a usage error where it can't."""
    words = shlex.split(line.split("<<<", maxsplit=1)[0].rsplit("|", maxsplit=1)[-1])
    assert words[0] == "runnerd"
    context = COMMAND.make_context("runnerd", words[1:])
    name, command, rest = COMMAND.resolve_command(context, context._protected_args + context.args)  # type: ignore[attr-defined]
    command.make_context(name, rest, parent=context)


def unknown_names(given: Any, kept: Any, path: str = "") -> list[str]:
    """Names in `given` that a type read past, by what it writes again; defaults are written here too."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            name
            for key, value in given.items()
            for name in ([f"{path}.{key}"] if key not in kept else unknown_names(value, kept[key], f"{path}.{key}"))
        ]
    if isinstance(given, list) and isinstance(kept, list):
        return [name for g, k in zip(given, kept, strict=True) for name in unknown_names(g, k, path)]
    return []


def test_tables_are_what_the_code_says() -> None:
    made = tables()
    for page in made.PAGES:
        text = page.read_text()
        assert made.written(text) == text, f"{page.name}: run `make docs`"


def test_every_example_is_tested() -> None:
    fenced = re.findall(r"^```\w+$", README, re.MULTILINE)
    assert len(fenced) == len(EXAMPLES), "each fenced block has a name of its own, <!-- example: name -->"
    source = Path(__file__).read_text()
    assert [name for name in EXAMPLES if f'EXAMPLES["{name}"]' not in source] == []


def test_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hi.py").touch()
    commands = [line for line in EXAMPLES["shell"].splitlines() if "runnerd" in line]
    assert commands
    for line in commands:
        parse(line)


def test_commands_that_the_text_mentions() -> None:
    for words in re.findall(r"`runnerd ([a-z]+)(?: ([a-z]+))?", README):
        command = COMMAND
        for word in filter(None, words):
            command = command.commands[word]  # type: ignore[attr-defined]


def test_nats_requests() -> None:
    requests = re.findall(r"nats request rd\.v1\.run\.default\.(\w+) '(.*)'", EXAMPLES["nats"])
    assert len(requests) == len(EXAMPLES["nats"].splitlines())
    for lang, body in requests:
        assert lang in find_plugins().languages
        assert decode_job(body.encode()).code


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """What the examples talk to."""
    directory = tmp_path_factory.mktemp("docs")
    flags = (
        f"state_dir={directory}/state", "ingress.nats.listen=127.0.0.1:0", "ingress.http.port=0", f"ingress.http.api_key={KEY}",
        "isolation.minimum=process", "scheduler.slots=2", "languages.py.warm=1", "languages.js.warm=0",
    )  # fmt: skip
    plugins = find_plugins()
    settings = load_config(plugins, flags=flags, environ={}, directory=directory).settings
    async with hosted(open_daemon(settings, plugins)) as daemon:
        yield daemon


async def said_by(*argv: str, **options: Any) -> str:
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, **options)
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()


def here(source: str, daemon: Daemon) -> str:
    """An example as it stands, but for the port."""
    moved = source.replace("nats://127.0.0.1:4222", daemon.addresses["nats"])
    assert moved != source
    return moved


async def test_nats_py(daemon: Daemon) -> None:
    assert (await said_by(sys.executable, "-c", here(EXAMPLES["nats-py"], daemon))).split()[:2] == ["ok", "6"]


async def test_submit(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "report.py").write_text("print(open('data.csv').read())\nopen('report.txt', 'w').write('done')\n")
    (tmp_path / "data.csv").write_text("6,7")
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(3600)\n")
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RUNNERD_URL": daemon.addresses["nats"]}
    said = await said_by("bash", "-euc", EXAMPLES["submit"], cwd=tmp_path, env=environ)
    *lines, cancelled = said.splitlines()
    assert lines == ["report-1", "6,7", "6,7", "endless-1"]
    assert cancelled.startswith("endless-1: cancelled: it was ")
    assert (tmp_path / "results" / "report.txt").read_text() == "done"


async def test_client(daemon: Daemon) -> None:
    said = (await said_by(sys.executable, "-c", here(EXAMPLES["client"], daemon))).splitlines()
    assert (said[0].split()[:2], said[1:]) == (["kept", "as"], ["42", "ok"])


async def test_nats_tool(daemon: Daemon) -> None:
    """What its commands send and read, by a client of ours: the tool itself is not here."""
    submit, status, output, result = (shlex.split(line) for line in EXAMPLES["nats-durable"].splitlines())
    assert submit[:4] == ["nats", "request", "-H", "Rd-Output:events"]
    assert status[:2] == ["nats", "request"]
    assert [(each[:3], each[4]) for each in (output, result)] == [(["nats", "stream", "get"], "--last-for")] * 2
    async with await nats.connect(daemon.addresses["nats"]) as client:
        sent = await client.request(submit[4], submit[5].encode(), headers={"Rd-Output": "events"}, timeout=30)
        assert json.loads(sent.data)["stream"] == "RD_JOBS"
        assert json.loads((await client.request(status[2], status[3].encode(), timeout=30)).data)
        async with connect_jetstream(daemon.addresses["nats"]) as other:
            assert (await other.wait(result[5].rpartition(".")[2])).stdout == "42\n"
        found = {each[3]: await client.jetstream().get_last_msg(each[3], each[5]) for each in (output, result)}
        assert [json.loads(msg.data or b"")["type"] for msg in found.values()] == ["output", "result"]


async def test_interactive(daemon: Daemon) -> None:
    assert (await said_by(sys.executable, "-c", here(EXAMPLES["interactive"], daemon))).strip() == "name? hello world"


async def test_tools(daemon: Daemon) -> None:
    said = await said_by(sys.executable, "-c", here(EXAMPLES["tools"], daemon))
    assert said.splitlines() == ["{'city': 'Praha', 'degrees': 21}", "there is no such place"]


async def test_tools_bash(daemon: Daemon) -> None:
    said = re.findall(r'\{"id.*?\}(?=,| or|$)', EXAMPLES["tools-bash"].splitlines()[-1])
    events = daemon.submit(Job(lang="bash", code=EXAMPLES["tools-bash"], tools=("weather",)))
    async for event in events:
        if isinstance(event, ToolCall):
            assert (event.name, json.loads(event.arguments)) == ("weather", {"city": "Praha"})
            await daemon.answer(event.tenant, event.id, event.call, b'{"city":"Praha","degrees":21}')
    assert isinstance(event, Result)
    assert event.stdout.strip() == said[0]


async def test_session(daemon: Daemon, tmp_path: Path) -> None:
    environ = {**os.environ, "URL": daemon.addresses["http"].split()[0], "API_KEY": KEY}
    said = await said_by("bash", "-euc", EXAMPLES["session"], cwd=tmp_path, env=environ)
    answers = []
    while said:
        answer, end = json.JSONDecoder().raw_decode(said)
        answers.append(answer)
        said = said[end:].lstrip()
    second, uploaded, listed = answers
    assert second["stdout"] == "42 kept\n"
    assert uploaded["message"] == "success"
    assert {file["name"] for file in listed} == {"notes.txt", "first.json"}


@pytest.mark.parametrize("example", ["stores", "stores-jetstream"])
def test_stores(tmp_path: Path, example: str) -> None:
    texts = {"stores": EXAMPLES["stores"], "stores-jetstream": EXAMPLES["stores-jetstream"]}
    (tmp_path / "runnerd.toml").write_text(texts[example])
    store = load_config(find_plugins(), environ={}, directory=tmp_path).settings.store
    assert "example.org" in store.kv.where()
    assert "example.org" in store.blob.where()


def test_result() -> None:
    given = json.loads(EXAMPLES["result"])
    result = decode_result(EXAMPLES["result"].encode())
    assert unknown_names(given, msgspec.to_builtins(result)) == []


def test_job() -> None:
    job = decode_job(EXAMPLES["job"].encode())
    assert unknown_names(json.loads(EXAMPLES["job"]), json.loads(encode(job))) == []
    assert job != Job()


def test_curl() -> None:
    body = re.search(r"-d '(.*)'", EXAMPLES["curl"])
    assert body is not None
    assert json.loads(body[1]).keys() == {"lang", "code"}


def test_toml(tmp_path: Path) -> None:
    (tmp_path / "runnerd.toml").write_text(EXAMPLES["toml"])
    config = load_config(find_plugins(), environ={}, directory=tmp_path)
    assert config.settings.ingress.keys() == {"nats"}


def test_reuse(tmp_path: Path) -> None:
    (tmp_path / "runnerd.toml").write_text(EXAMPLES["reuse"])
    settings = load_config(find_plugins(), environ={}, directory=tmp_path).settings
    assert settings.isolation.reuse == ("session",)
    assert settings.languages["py"].reuse == "session"


def test_runnerd_toml_of_the_checkout() -> None:
    load_config(find_plugins(), environ={}, directory=ROOT)


def test_plugin(tmp_path: Path) -> None:
    with plugin_of_the_readme(tmp_path) as plugins:
        assert not plugins.broken
        assert plugins.languages["pl"].hello == 'print "hi\\n";'


def test_plugin_project() -> None:
    project = tomllib.loads(EXAMPLES["plugin-project"])
    assert list(project["project"]["entry-points"]["runnerd"].values()) == project["tool"]["setuptools"]["py-modules"]


def test_prometheus() -> None:
    (scraped,) = yaml.safe_load(EXAMPLES["prometheus"])["scrape_configs"]
    assert set(scraped) == {"job_name", "authorization", "static_configs"}  # at the path that Prometheus takes by itself: /metrics


def test_systemd() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(EXAMPLES["systemd"])
    program, _, arguments = unit["Service"]["ExecStart"].partition(" ")
    parse(f"{Path(program).name} {arguments}")
    assert float(unit["Service"]["TimeoutStopSec"]) > SchedulerSettings().grace_s


def test_every_variable_of_the_source_system_is_there() -> None:
    codes = "|".join(language.upper() for language in find_plugins().languages)
    general = {re.sub(rf"^(POD_POOL|LANG_IMAGE)_({codes})$", r"\1_<CODE>", name) for name in NAMES}
    settings = (ROOT / "docs/settings.md").read_text()
    assert [name for name in sorted(general) if f"`{name}`" not in settings] == []


def test_levels_are_those_of_the_executor() -> None:
    section = README.partition("## Isolation levels")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == (GVISOR, *LEVELS)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = set(re.findall(r"(?:`|^    )make ([a-z-]+)", README, re.MULTILINE))
    assert mentioned
    assert mentioned <= targets
