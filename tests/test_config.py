"""One typed tree from four sources, and one report of everything that is wrong."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta

from runnerd import ConfigError, Ingress, Language, Store
from runnerd.config import Config, load_config, settings_of
from runnerd.config.reference import reference, shown, template
from runnerd.plugins import Broken, Origin, Plugins, find_plugins

ROOT = Path(__file__).parent.parent


class Disk(Store, tag="disk", frozen=True, kw_only=True):
    state_dir: str = ""
    sync: bool = True

    open_kv = open_blobs = lambda self: None  # type: ignore[assignment,return-value]


class Memory(Store, tag="memory", frozen=True, kw_only=True):
    open_kv = open_blobs = lambda self: None  # type: ignore[assignment,return-value]


class Bucket(Store, tag="bucket", frozen=True, kw_only=True):
    open_blobs = lambda self: None  # type: ignore[assignment,return-value]  # noqa: E731


class Nats(Ingress, tag="nats", frozen=True, kw_only=True):
    url: str = ""
    """Server's URL, with user and password."""
    state_dir: str = ""


class Http(Ingress, tag="http", frozen=True, kw_only=True):
    port: Annotated[int, Meta(ge=0, le=65535, extra={"env": "API_PORT"})] = 8000
    api_key: Annotated[str, Meta(extra={"env": "API_KEY"})] = ""
    origins: Annotated[tuple[str, ...], Meta(extra={"env": "CORS_ORIGINS"})] = ()

    def __post_init__(self) -> None:
        if 0 < len(self.api_key) < 16:
            raise ValueError("API_KEY: too short")


class Rabbit(Ingress, tag="rabbit", frozen=True, kw_only=True):
    url: str
    prefetch: int = 10


def language(code: str, *aliases: str) -> Language:
    return Language(code=code, name=code, aliases=aliases, filename="a", run=("a",), image=code, version=("a",), hello="")


PLUGINS = Plugins(
    languages={"py": language("py", "python"), "js": language("js")},
    aliases={"python": "py"},
    stores={"disk": Disk, "memory": Memory, "bucket": Bucket},
    ingress={"nats": Nats, "http": Http, "rabbit": Rabbit},
)
ZIG = Broken(
    origin=Origin(distribution="runnerd-zig", version="1.2", name="zig", module="runnerd_zig"), reason="ImportError: x", traceback="T"
)

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(toml: str = "", dotenv: str = "", *flags: str, plugins: Plugins = PLUGINS, **environ: str) -> Config:
        (tmp_path / "runnerd.toml").write_text(toml)
        (tmp_path / ".env").write_text(dotenv)
        return load_config(plugins, flags=flags, environ=environ, directory=tmp_path)

    return loaded


def problems(load: Load, *args: str, plugins: Plugins = PLUGINS, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(*args, plugins=plugins, **environ)
    return caught.value.problems


def test_without_any_configuration(tmp_path: Path) -> None:
    config = load_config(PLUGINS, environ={}, directory=tmp_path)
    assert set(config.settings.ingress) == {"nats", "http"}
    assert config.settings.store.kv == Disk(state_dir=config.settings.state_dir)
    assert config.notes == ()


def test_precedence_is_flags_environment_dotenv_toml_default(load: Load) -> None:
    toml, dotenv, environ = "[limits]\nwall_s = 1", "MAX_EXECUTION_TIME=2", {"MAX_EXECUTION_TIME": "3"}
    assert load().settings.limits.wall_s == 30
    assert load(toml).settings.limits.wall_s == 1
    assert load(toml, dotenv).settings.limits.wall_s == 2
    assert load(toml, dotenv, **environ).settings.limits.wall_s == 3
    assert load(toml, dotenv, "limits.wall_s=4", **environ).settings.limits.wall_s == 4


def test_every_setting_has_a_variable(load: Load) -> None:
    settings = load(
        RUNNERD_STATE_DIR="/s",
        RUNNERD_LIMITS_MEMORY_BYTES="64Mi",
        RUNNERD_LANGUAGES_PY_WARM="7",
        POD_POOL_JS="3",
        LANG_IMAGE_JS="node:20",
        RUNNERD_STORE_KV_KIND="memory",
        RUNNERD_STORE_BLOB_SYNC="no",
        RUNNERD_INGRESS_RABBIT_URL="amqp://h",
        RUNNERD_INGRESS_HTTP_ENABLED="false",
        CORS_ORIGINS="https://a, https://b",
    ).settings
    assert settings.limits.memory_bytes == 64 << 20
    assert (settings.languages["py"].warm, settings.languages["js"].warm, settings.languages["js"].image) == (7, 3, "node:20")
    assert settings.store.kv == Memory()
    assert settings.store.blob == Disk(state_dir="/s", sync=False)
    assert settings.ingress == {"nats": Nats(state_dir="/s"), "rabbit": Rabbit(url="amqp://h")}


def test_an_empty_table_opens_an_ingress_and_lacks_what_is_required(load: Load) -> None:
    assert problems(load, "\n[ingress.rabbit]") == ("runnerd.toml:2: ingress.rabbit.url is missing: set it, or RUNNERD_INGRESS_RABBIT_URL",)


def test_empty_text_means_not_set(load: Load) -> None:
    assert load("[limits]\nwall_s = 1", "MAX_EXECUTION_TIME=", RUNNERD_LIMITS_WALL_S=" ").settings.limits.wall_s == 1


def test_all_problems_in_one_report(load: Load) -> None:
    toml = """state_dri = "/x"
isolation = 3
[limit]
wall_s = 3
[limits]
wall_s = "soon"
memory_byts = 5
processes = 0
[languages.python]
warm = 1
[languages.pyy]
[store.kv]
kind = "dsik"
[store.bolb]
[ingress.htpp]
[ingress.http]
prot = 1
"""
    found = problems(load, toml, "MAX_PIDS=many\nAPI_PORT=70000", "limits.wall=3", RUNNERD_LIMITS_WAL_S="3", POD_POOL_PX="1")
    assert set(found) == {
        "runnerd.toml:1: state_dri is not known: did you mean state_dir?",
        "runnerd.toml:2: isolation is a table: write [isolation]",
        "runnerd.toml:3: [limit] is not known: did you mean limits?",
        "runnerd.toml:6: limits.wall_s = 'soon': write a number of seconds, or a time such as 30s, 500ms or 2m",
        "runnerd.toml:7: limits.memory_byts is not known: did you mean memory_bytes?",
        "runnerd.toml:9: languages.python is an alias: write languages.py",
        "runnerd.toml:11: there is no language 'pyy': did you mean py?",
        "runnerd.toml:13: there is no store of keys and values 'dsik': did you mean disk?",
        "runnerd.toml:14: store.bolb is not known: did you mean blob?",
        "runnerd.toml:15: there is no ingress 'htpp': did you mean http?",
        "runnerd.toml:17: ingress.http.prot is not known: did you mean port?",
        ".env:1: MAX_PIDS: limits.processes = 'many': write a number",
        ".env:2: API_PORT: ingress.http.port = '70000': expected whole number <= 65535",
        "--set limits.wall: is no setting: did you mean limits.wall_s?",
        "variable RUNNERD_LIMITS_WAL_S: is no setting: did you mean RUNNERD_LIMITS_WALL_S?",
        "variable POD_POOL_PX: there is no language 'px', only py, js",
    }


def test_a_plugins_own_check_is_reported_with_its_place(load: Load) -> None:
    assert problems(load, API_KEY="short") == ("variable API_KEY: ingress.http: API_KEY: too short",)


def test_secrets_are_not_in_reports(load: Load) -> None:
    (problem,) = problems(load, "[ingress.http]\napi_key = 12345678")
    assert problem == "runnerd.toml:2: ingress.http.api_key: expected text, got whole number"


def test_a_broken_plugin_stops_the_daemon_only_if_it_is_needed(load: Load) -> None:
    plugins = Plugins(languages=PLUGINS.languages, stores=PLUGINS.stores, ingress=PLUGINS.ingress, broken=(ZIG,))
    assert load(plugins=plugins).settings
    assert problems(load, "[languages.zig]\nwarm = 1\n[ingress.zig]", plugins=plugins) == (
        "runnerd.toml:1: there is no language 'zig', only py, js",
        "runnerd.toml:3: there is no ingress 'zig', only nats, http, rabbit",
        "broken plugin, which may have what is missing: zig (runnerd-zig 1.2): ImportError: x; see `runnerd plugins`",
    )
    assert load("[ingress.zig]\nenabled = false", plugins=plugins).notes == (
        "runnerd.toml:1: there is no ingress 'zig', and it is not enabled",
    )


def test_the_embedded_default_needs_its_plugins(load: Load) -> None:
    plugins = Plugins(stores={"disk": Disk}, ingress={"http": Http})
    assert problems(load, plugins=plugins) == ("embedded default ingress.nats: there is no ingress 'nats', only http",)


def test_a_store_must_be_able_to_do_its_part(load: Load) -> None:
    assert load('[store.blob]\nkind = "bucket"').settings.store.blob == Bucket()
    (problem,) = problems(load, '[store.kv]\nkind = "bucket"')
    assert problem == "runnerd.toml:2: there is no store of keys and values 'bucket', only disk, memory"


def test_a_setting_of_another_kind(load: Load) -> None:
    (problem,) = problems(load, '[store.kv]\nkind = "memory"\nsync = false')
    assert problem == "runnerd.toml:3: store.kv.sync is a setting of kind disk, and the kind is memory"


def test_another_kind_takes_the_former_kinds_fields_out_of_use(load: Load) -> None:
    config = load('[store.kv]\nkind = "disk"\nsync = false', RUNNERD_STORE_KV_KIND="memory")
    assert config.settings.store.kv == Memory()
    assert config.notes == ("runnerd.toml:3: has no effect: variable RUNNERD_STORE_KV_KIND makes it a store of kind memory",)


def test_nothing_is_ignored_in_silence(load: Load) -> None:
    config = load("", "MAX_MEMROY_MB=5\nPATH_TO_X=1", API_RELOAD="true", RUNNERD_LIMITS_WALL_S="5", MAX_EXECUTION_TIME="6", HOME="/x")
    assert config.settings.limits.wall_s == 5
    assert set(config.notes) == {
        ".env:1: MAX_MEMROY_MB: is no setting: did you mean MAX_MEMORY_MB?",
        "variable API_RELOAD: has no effect yet: start the daemon again instead",
        "variable MAX_EXECUTION_TIME: has no effect: RUNNERD_LIMITS_WALL_S sets limits.wall_s as well, and wins",
    }


def test_variables_of_our_prefix_that_are_no_settings(load: Load) -> None:
    kubernetes = {
        "RUNNERD_SERVICE_HOST": "10.0.0.1",
        "RUNNERD_SERVICE_PORT_HTTP": "80",
        "RUNNERD_NATS_SERVICE_PORT": "4222",
        "RUNNERD_PORT": "tcp://10.0.0.1:80",
        "RUNNERD_NATS_PORT_4222_TCP_ADDR": "10.0.0.1",
    }
    assert load(RUNNERD_URL="nats://h", **kubernetes).notes == ()
    assert problems(load, RUNNERD_INGRES_HTTP_PORT="80") == (
        "variable RUNNERD_INGRES_HTTP_PORT: is no setting: did you mean RUNNERD_INGRESS_HTTP_PORT?",
    )


def test_another_file(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[limits]\nwall_s = 9")
    for given in ({"file": "other.toml", "environ": {}}, {"environ": {"RUNNERD_CONFIG": "other.toml"}}):
        assert load_config(PLUGINS, directory=tmp_path, **given).settings.limits.wall_s == 9  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"none\.toml: can't be read"):
        load_config(PLUGINS, file="none.toml", environ={}, directory=tmp_path)


def test_shown_masks_secrets_and_names_places(load: Load) -> None:
    lines = shown(load("[limits]\nwall_s = 9", API_KEY="k" * 16, RUNNERD_INGRESS_NATS_URL="nats://me:secret@host:4222", POD_POOL_PY="4"))
    assert lines["limits.wall_s"] == ("9", "runnerd.toml:2")
    assert lines["limits.processes"] == ("512", "default")
    assert lines["ingress.http.api_key"] == ("********", "variable API_KEY")
    assert lines["ingress.nats.url"] == ("nats://me:********@host:4222", "variable RUNNERD_INGRESS_NATS_URL")
    assert lines["languages.py.warm"] == ("4", "variable POD_POOL_PY")
    assert lines["store.kv.kind"] == ("disk", "default")


def test_reference_tells_of_every_setting() -> None:
    rows = {row.setting: row for row in reference(PLUGINS)}
    assert rows["limits.wall_s"].variables == ("RUNNERD_LIMITS_WALL_S", "MAX_EXECUTION_TIME")
    assert rows["limits.wall_s"].default == "30"
    assert rows["limits.wall_s"].unit == "s"
    assert rows["limits.wall_s"].meaning.startswith("Wall time of each stage")
    assert rows["languages.py.warm"].variables == ("RUNNERD_LANGUAGES_PY_WARM", "POD_POOL_PY")
    assert rows["ingress.rabbit.url"].default == "(required)"
    assert rows["ingress.nats.enabled"].meaning.startswith("False: not opened")
    assert rows["store.kv.sync (disk)"].default == "true"


def test_bundled_settings_are_all_documented() -> None:
    assert [row.setting for row in reference(find_plugins()) if not row.meaning] == []


def test_template_is_a_dotenv_file_that_changes_nothing(tmp_path: Path) -> None:
    plugins = find_plugins()
    default = load_config(plugins, environ={}, directory=tmp_path)
    settings = settings_of(plugins)
    others = {name for one in settings if one.path[0] == "store" and one.kind not in ("", "disk") for name in one.names}
    others |= {name for one in settings if one.path[0] == "ingress" and one.path[1] not in default.settings.ingress for name in one.names}
    others -= {name for one in settings if one.kind in ("", "disk") for name in one.names}
    taken = [re.sub(r"^#([A-Z0-9_]+=)", r"\1", line) for line in template(plugins).splitlines()]
    assert "MAX_EXECUTION_TIME=30" in taken
    (tmp_path / ".env").write_text("\n".join(line for line in taken if line.partition("=")[0] not in others))
    config = load_config(plugins, environ={}, directory=tmp_path)
    assert config.settings == default.settings
    assert config.notes == ()


def test_env_example_is_the_template() -> None:
    assert (ROOT / ".env.example").read_text() == template(find_plugins()), "runnerd config template > .env.example"


def test_example_file_loads() -> None:
    """And with its comments taken away, every setting that it shows is known."""
    config = load_config(find_plugins(), file="runnerd.toml", environ={}, directory=ROOT)
    assert config.notes == ()


def test_example_file_holds_the_defaults(tmp_path: Path) -> None:
    plugins = find_plugins()
    example = load_config(plugins, file="runnerd.toml", environ={}, directory=ROOT).settings
    assert example.limits == load_config(plugins, environ={}, directory=tmp_path).settings.limits
    assert example.store == load_config(plugins, environ={}, directory=tmp_path).settings.store
    assert example.ingress == load_config(plugins, environ={}, directory=tmp_path).settings.ingress


def test_state_directory_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/me")
    assert load_config(PLUGINS, environ={}, directory=tmp_path).settings.state_dir == "/home/me/.local/state/runnerd"
    assert load_config(PLUGINS, environ={"XDG_STATE_HOME": "/s"}, directory=tmp_path).settings.state_dir == "/s/runnerd"
