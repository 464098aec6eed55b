"""Which kind of store is taken: by `kind`, by a variable of the source system, or the embedded one."""

import importlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from runnerd import ConfigError, KeyValues, Store
from runnerd.config import Config, load_config
from runnerd.plugins import Plugins, find_plugins, kind_of

Load = Callable[..., Config]
PLUGINS = find_plugins()


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(toml: str = "", dotenv: str = "", *flags: str, plugins: Plugins = PLUGINS, **environ: str) -> Config:
        (tmp_path / "runnerd.toml").write_text(toml)
        (tmp_path / ".env").write_text(dotenv)
        return load_config(plugins, flags=flags, environ=environ, directory=tmp_path)

    return loaded


def kinds(config: Config) -> tuple[str, str]:
    return kind_of(type(config.settings.store.kv)), kind_of(type(config.settings.store.blob))


@pytest.mark.parametrize("name", ["REDIS_HOST", "REDIS_URL"])
@pytest.mark.parametrize("file", [True, False])
def test_redis_is_chosen_by_a_variable(load: Load, name: str, file: bool) -> None:
    value = {"REDIS_HOST": "h", "REDIS_URL": "redis://h"}[name]
    config = load(dotenv=f"{name}={value}") if file else load(**{name: value})
    assert kinds(config) == ("redis", "disk")
    assert config.settings.store.kv.where() == "h:6379"
    assert config.notes == ()


def test_s3_is_chosen_by_a_variable(load: Load) -> None:
    config = load(MINIO_ENDPOINT="h:9000", MINIO_ACCESS_KEY="a", MINIO_SECRET_KEY="b")
    assert kinds(config) == ("disk", "s3")
    assert config.settings.store.blob.where() == "h:9000, bucket kubecoderun-files"
    assert config.notes == ()


def test_an_empty_variable_chooses_nothing(load: Load) -> None:
    config = load(dotenv="REDIS_URL=", REDIS_HOST=" ", MINIO_ENDPOINT="")
    assert kinds(config) == ("disk", "disk")
    assert config.notes == ()


def test_what_kind_says_counts_more_wherever_it_stands(load: Load) -> None:
    note = "variable REDIS_HOST: has no effect: store.kv is of kind memory"
    for toml, flags, environ in (
        ('[store.kv]\nkind = "memory"', (), {}),
        ("", ("store.kv.kind=memory",), {}),
        ("", (), {"RUNNERD_STORE_KV_KIND": "memory"}),
    ):
        config = load(toml, "", *flags, REDIS_HOST="h", **environ)
        assert kinds(config) == ("memory", "disk")
        if not flags:
            assert config.notes == (note,)


def test_variables_of_a_kind_that_is_not_used_are_named(load: Load) -> None:
    config = load(REDIS_PORT="6380", MINIO_BUCKET="b")
    assert kinds(config) == ("disk", "disk")
    assert config.notes == (
        "variable MINIO_BUCKET: has no effect: store.blob is of kind disk",
        "variable REDIS_PORT: has no effect: store.kv is of kind disk",
    )


def test_a_variable_takes_the_former_kinds_fields_out_of_use(load: Load) -> None:
    config = load('[store.kv]\npath = "/somewhere"', REDIS_HOST="h")
    assert kinds(config) == ("redis", "disk")
    assert config.notes == ("runnerd.toml:2: has no effect: variable REDIS_HOST makes it a store of kind redis",)


def test_kubernetes_says_where_its_services_are(load: Load) -> None:
    """A service named `redis` gives every pod a variable of the same name with another meaning."""
    config = load(REDIS_HOST="redis", REDIS_PORT="tcp://10.0.0.1:6379", API_PORT="tcp://10.0.0.2:80")
    assert config.settings.store.kv.where() == "redis:6379"
    assert len(config.notes) == 2
    assert all("has no effect: it is what Kubernetes sets for a service of that name" in note for note in config.notes)


class Other(Store, tag="other", frozen=True, kw_only=True):
    host: Annotated[str, Meta(extra={"env": "OTHER_HOST", "selects": True})] = ""

    def open_kv(self) -> AbstractAsyncContextManager[KeyValues]:
        raise NotImplementedError


def test_variables_that_choose_different_kinds(load: Load) -> None:
    plugins = msgspec.structs.replace(PLUGINS, stores={**PLUGINS.stores, "other": Other})
    with pytest.raises(ConfigError, match=r"OTHER_HOST and REDIS_HOST choose different kinds of store\.kv: set store\.kv\.kind as well"):
        load(plugins=plugins, REDIS_HOST="h", OTHER_HOST="h")
    assert kinds(load('[store.kv]\nkind = "redis"', plugins=plugins, REDIS_HOST="h", OTHER_HOST="h"))[0] == "redis"
    assert kinds(load(dotenv="REDIS_HOST=h", plugins=plugins, OTHER_HOST="h"))[0] == "other", "the environment beats the file"


@pytest.mark.parametrize(
    ("url", "where", "user", "password"),
    [
        ("redis://h", "h:6379", "", ""),
        ("redis://secret@h:6380/2", "h:6380", "", "secret"),
        ("redis://:p%40ss%3Aw%2Frd%23@h/0", "h:6379", "", "p@ss:w/rd#"),
        ("rediss://me:secret@[::1]:6390", "[::1]:6390", "me", "secret"),
        ("unix:///run/redis.sock?db=3", "/run/redis.sock", "", ""),
    ],
)
def test_redis_urls(load: Load, url: str, where: str, user: str, password: str) -> None:
    store = load(REDIS_URL=url, REDIS_HOST="other", REDIS_PORT="1").settings.store.kv
    place = importlib.import_module(f"{type(store).__module__}.place").place_of(store)
    assert (str(place), place.username, place.password) == (where, user, password)


@pytest.mark.parametrize(
    "url",
    ["http://h", "h:6379", "redis://", "redis://:s3cr3t/x@h:6379", "redis://:s3cr3t#@h", "redis://:s3cr3t@h:port", "redis://:s3cr3t@h/one"],
)
def test_a_wrong_url_is_refused_without_its_password(load: Load, url: str) -> None:
    with pytest.raises(ConfigError, match=r"variable REDIS_URL: store\.kv: url: ") as raised:
        load(REDIS_URL=url)
    assert "s3cr3t" not in str(raised.value)
    assert "redis://user:password@host:6379/0" in str(raised.value)


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("host=redis://h", "host: is a URL"),
        ("sentinels=nowhere", "sentinels"),
        ("port=0", "port"),
        ("timeout_s=0", "timeout_s"),
    ],
)
def test_wrong_redis_settings(load: Load, flag: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load("", "", "store.kv.kind=redis", f"store.kv.{flag}")


@pytest.mark.parametrize("endpoint", ["http://", "ftp://h", "h:9000/bucket", "http://me:s3cr3t@h", "h:port"])
def test_wrong_endpoints(load: Load, endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"endpoint: is no host:port") as raised:
        load(MINIO_ENDPOINT=endpoint)
    assert "MINIO_ENDPOINT" in str(raised.value)


def test_an_endpoint_may_be_a_url(load: Load) -> None:
    assert load(MINIO_ENDPOINT="https://s3.example", MINIO_BUCKET="b").settings.store.blob.where() == "s3.example:443, bucket b"
    assert load(MINIO_ENDPOINT="s3.example", MINIO_SECURE="true").settings.store.blob.where() == "s3.example:443, bucket kubecoderun-files"


def test_half_a_key_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match="MINIO_SECRET_KEY"):
        load(MINIO_ENDPOINT="h:9000", MINIO_ACCESS_KEY="a")
