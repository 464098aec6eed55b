"""What runsc is told about a sandbox: nothing of this machine can be written, and only tool chains can be read."""

from pathlib import Path

from runnerd.agent.options import POD, Options
from runnerd.executors import bundle

OPTIONS = Options(level=POD, scratch="", socket="", cells=1, own_kernel=True, workspace_bytes=1 << 20, tmp_bytes=2 << 20, shm_bytes=3 << 20)


def test_what_of_the_host_is_shown(tmp_path: Path) -> None:
    tools = tmp_path / "opt" / "tools"
    (tools / "bin").mkdir(parents=True)
    shown = bundle.shown(str(tools / "bin" / "python3"), [str(tmp_path / "opt" / "*"), str(tmp_path / "missing")])
    assert {"/usr", str(tools)} <= set(shown)
    assert not {"/etc", "/etc/passwd", "/etc/shadow", "/root", "/home", "/var", "/proc", "/", "/usr/lib"} & set(shown)
    assert len(shown) == len(set(shown))
    assert "/" not in bundle.shown("/bin/python3", [])


def test_nothing_of_the_host_can_be_written() -> None:
    config = bundle.config(Path("/r"), Path("/a"), "/usr/bin/python3", ["/usr", "/etc/alternatives"], OPTIONS)
    binds = [mount for mount in config["mounts"] if mount["type"] == "bind"]
    assert [mount["destination"] for mount in binds] == ["/opt/runnerd", "/usr", "/etc/alternatives"]
    assert all({"ro", "nosuid", "nodev"} <= set(mount["options"]) for mount in binds)
    sizes = {mount["destination"]: mount["options"][0] for mount in config["mounts"] if mount["type"] == "tmpfs"}
    assert sizes == {"/mnt/data": f"size={1 << 20}", "/tmp": f"size={2 << 20}", "/dev/shm": f"size={3 << 20}"}
    assert config["root"]["readonly"]


def test_the_program_is_nobody_with_no_rights() -> None:
    process = bundle.config(Path("/r"), Path("/a"), "/usr/bin/python3", [], OPTIONS)["process"]
    assert (process["user"], process["capabilities"], process["noNewPrivileges"]) == ({"uid": 65_532, "gid": 65_532}, {}, True)
    assert Options.parse(process["env"][-1].partition("=")[2]) == OPTIONS


def test_the_root_has_links_users_and_places(tmp_path: Path) -> None:
    bundle.make_root(tmp_path)
    assert (tmp_path / "etc" / "passwd").read_text().splitlines()[-1] == "runner:x:65532:65532::/tmp:/bin/sh"
    assert all((tmp_path / name).is_symlink() == Path("/", name).is_symlink() for name in bundle.SYSTEM)
