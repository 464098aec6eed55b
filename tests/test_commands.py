"""The command line: plugins, config and check, with their exit codes and their words."""

import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distributions import LANGUAGE, Site, site
from redis_fixture import free_port
from runnerd import __main__, __version__
from seed_variables import NAMES

Runnerd = Callable[..., tuple[int, str, str]]
QUICK = ("--set", "ingress.nats.listen=127.0.0.1:0", "--set", "ingress.http.port=0", "--set", "isolation.minimum=process")


@pytest.fixture
def runnerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runnerd:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNNERD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    for name in NAMES:  # some are everybody's, such as SSL_CERT_FILE
        monkeypatch.delenv(name, raising=False)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["runnerd", *args])
        with pytest.raises(SystemExit) as ended:
            __main__.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def dists(tmp_path: Path) -> Iterator[Site]:
    directory = tmp_path / "site"
    directory.mkdir()
    with site(directory) as made:
        yield made


def test_version_and_help(runnerd: Runnerd) -> None:
    assert runnerd("--version")[:2] == (0, f"runnerd {__version__}\n")
    code, out, _ = runnerd("--help")
    assert code == 0
    assert all(command in out for command in ("serve", "run", "languages", "plugins", "check", "config"))
    assert "runnerd serve --set ingress.http.port=9000" in runnerd("serve", "--help")[1]


def test_plugins(runnerd: Runnerd) -> None:
    code, out, _ = runnerd("plugins")
    assert code == 0
    assert "language py" in out
    assert "ingress nats" in out
    assert f"runnerd {__version__}" in out


def test_broken_plugin_is_named_with_its_traceback(runnerd: Runnerd, dists: Site) -> None:
    dists.install("runnerd-good", LANGUAGE.format(code="lua", aliases=""))
    dists.install("runnerd-bad", "raise RuntimeError('at import')", version="1.5")
    code, out, _ = runnerd("plugins")
    assert code == 1
    assert "language lua" in out
    assert "broken: RuntimeError: at import" in out
    assert "runnerd-bad 1.5" in out
    assert "runnerd_bad.py" in runnerd("plugins", "--traceback")[1]
    code, out, _ = runnerd("plugins", "--json")
    assert code == 1
    (broken,) = json.loads(out)["broken"]
    assert (broken["origin"]["distribution"], broken["origin"]["version"]) == ("runnerd-bad", "1.5")
    assert broken["traceback"].startswith("Traceback")
    assert {"lua", "py"} <= {code for plugin in json.loads(out)["plugins"] for code in plugin["languages"]}


def test_config_show(runnerd: Runnerd, tmp_path: Path) -> None:
    (tmp_path / "runnerd.toml").write_text("[limits]\nwall_s = 7\n")
    code, out, _ = runnerd("config", "show", "--set", "ingress.http.api_key=abcdefghijklmnopqrst")
    assert code == 0
    assert "limits.wall_s = 7    # runnerd.toml:2\n" in out
    assert "ingress.http.api_key = ********    # --set ingress.http.api_key\n" in out
    assert "abcdefghij" not in out
    shown = json.loads(runnerd("config", "show", "--json")[1])
    assert shown["limits.wall_s"] == {"value": "7", "from": "runnerd.toml:2"}


def test_config_validate(runnerd: Runnerd, tmp_path: Path) -> None:
    assert runnerd("config", "validate")[:2] == (0, "The configuration is valid.\n")
    (tmp_path / "runnerd.toml").write_text('[limits]\nwal_s = 7\nfiles = "x"\n')
    code, out, err = runnerd("config", "validate")
    assert (code, out) == (2, "")
    assert err == (
        "runnerd: runnerd.toml:2: limits.wal_s is not known: did you mean wall_s?\n"
        "runnerd: runnerd.toml:3: limits.files = 'x': write a number\n"
    )


def test_config_template_and_reference(runnerd: Runnerd) -> None:
    assert "\n#MAX_EXECUTION_TIME=30\n" in runnerd("config", "template")[1]
    assert "| `limits.wall_s` | `RUNNERD_LIMITS_WALL_S` `MAX_EXECUTION_TIME` | `30` s |" in runnerd("config", "reference")[1]
    assert json.loads(runnerd("config", "reference", "--json")[1])[0]["setting"] == "state_dir"


def test_check(runnerd: Runnerd) -> None:
    code, out, _ = runnerd("check", *QUICK, "--set", "local.cpu_cores=2", "--json")
    found = json.loads(out)
    assert code == 0, found
    said = {(finding["about"], finding["state"]): finding["text"] for finding in found}
    assert said["settings", "ok"] == "valid"
    assert (
        said["settings", "note"]
        == "limits.cpu_cores = 1 and local.cpu_cores = 2 bound the same thing: the smaller one, limits.cpu_cores, holds"
    )
    assert re.fullmatch(r"disk at /.*/store: opens and takes values", said["store.kv", "ok"])
    assert re.fullmatch(r"disk at /.*/store: opens and takes blobs", said["store.blob", "ok"])
    assert said["ingress.http", "ok"] == "127.0.0.1, any free port"
    assert ("language py", "ok") in said or ("language py", "note") in said
    assert any(finding["about"] == "isolation" and finding["text"].startswith("limits enforced: ") for finding in found)


def test_check_finds_what_stands_in_the_way(runnerd: Runnerd, tmp_path: Path, dists: Site) -> None:
    dists.install("runnerd-bad", "raise RuntimeError('at import')")
    (tmp_path / "state").write_text("no directory")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ("--set", f"ingress.http.port={port}", "--set", "local.level=process", "--set", "isolation.minimum=userns")
        code, out, _ = runnerd("check", *QUICK, *flags)
    assert code == 1
    problems = [line for line in out.splitlines() if line.startswith("problem")]
    for text in (
        "broken: runnerd_bad (runnerd-bad 1.0): RuntimeError: at import",
        f"state_dir: {tmp_path}/state can't be made",
        f"can't listen on 127.0.0.1 port {port}: Address already in use",
        "sandboxes reach level 'process', and jobs need 'userns' at least",
    ):
        assert any(text in problem for problem in problems), text


def test_check_says_which_store_is_out_of_reach(runnerd: Runnerd, monkeypatch: pytest.MonkeyPatch) -> None:
    redis, s3 = free_port(), free_port()
    monkeypatch.setenv("REDIS_URL", f"redis://:s3cr3t@127.0.0.1:{redis}/0")
    monkeypatch.setenv("MINIO_ENDPOINT", f"127.0.0.1:{s3}")
    code, out, _ = runnerd("check", *QUICK, "--set", "store.blob.retries=0", "--json")
    assert code == 1
    found = {finding["about"]: finding["text"] for finding in json.loads(out) if finding["state"] == "problem"}
    assert re.search(rf"^Redis 127\.0\.0\.1:{redis}: .*(refused|Connect call failed)", found["store.kv"])
    assert re.search(rf"^S3 127\.0\.0\.1:{s3}, bucket kubecoderun-files: .*refused", found["store.blob"])
    assert "s3cr3t" not in out


def test_check_with_wrong_settings(runnerd: Runnerd) -> None:
    code, out, _ = runnerd("check", "--set", "limits.wal_s=1")
    assert code == 2
    assert "--set limits.wal_s: is no setting: did you mean limits.wall_s?" in out
