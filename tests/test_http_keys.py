"""Who may come in over HTTP, and who may not."""

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from hosting import hosted
from http_services import KEY, HttpServices, address, http, serving
from runnerd import ConfigError


@pytest.fixture
async def services() -> HttpServices:
    return HttpServices()


@pytest.fixture
async def client(services: HttpServices) -> AsyncIterator[httpx.AsyncClient]:
    async with hosted(serving(services)) as client:
        yield client


class TestKeys:
    @pytest.mark.parametrize(
        "headers", [{"x-api-key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer {KEY}", "x-api-key": "other"}]
    )
    async def test_a_known_key_comes_in(self, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        host, port = address(client)
        async with httpx.AsyncClient() as other:
            answer = await other.post(f"http://{host}:{port}/exec", json={"lang": "py", "code": "x"}, headers=headers)
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        ("headers", "reason"),
        [
            ({}, "no API key"),
            ({"x-api-key": KEY + "x"}, "not known"),
            ({"Authorization": "Basic abc"}, "no API key"),
            ({"x-api-key": "ä"}, "not known"),
        ],
    )
    async def test_all_others_stay_out(
        self, client: httpx.AsyncClient, services: HttpServices, headers: dict[str, str], reason: str
    ) -> None:
        url = str(client.base_url)
        sent = {name: value.encode() for name, value in headers.items()}
        async with httpx.AsyncClient(base_url=url) as other:
            answer = await other.post("/exec", json={"lang": "py", "code": "x"}, headers=sent)
            assert (await other.get("/health/detailed", headers=sent)).status_code == 401
        assert answer.status_code == 401
        assert reason in answer.json()["error"]
        assert answer.headers["www-authenticate"] == "Bearer"
        assert not services.jobs

    async def test_refusals_are_logged_once_in_a_while_and_without_the_key(
        self, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(20):
            await client.post("/exec", headers={"x-api-key": "secret-but-wrong"})
        logged = capsys.readouterr().out + caplog.text
        assert logged.count("http_request_refused") == 1
        assert "secret-but-wrong" not in logged
        assert KEY not in logged

    async def test_another_header_and_more_keys(self, services: HttpServices, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("# ours\nfile-key-0123456789\n\nfile-key-abcdefghij\n")
        keys = [f"@{tmp_path / 'keys'}", "list-key-0123456789"]
        async with serving(services, api_keys=keys, api_key_header="X-Token") as client:
            for key in (KEY, "file-key-0123456789", "file-key-abcdefghij", "list-key-0123456789"):
                assert (await client.post("/exec", json={"lang": "py", "code": "x"}, headers={"X-Token": key})).status_code == 200
            assert (await client.post("/exec", json={"lang": "py", "code": "x"})).status_code == 401

    def test_a_short_key_is_refused_by_its_variable_and_not_shown(self) -> None:
        for variable, settings in (("API_KEY", {"api_key": "short-secret"}), ("API_KEYS", {"api_keys": ["short-secret"]})):
            with pytest.raises(msgspec.ValidationError, match=f"{variable}: .*12 characters.*16") as caught:
                http(**settings)
            assert "short-secret" not in str(caught.value)

    @pytest.mark.parametrize("content", [None, "", "short", "has a blank in it 123"])
    async def test_a_bad_file_of_keys_is_named(self, services: HttpServices, tmp_path: Path, content: str | None) -> None:
        file = tmp_path / "keys"
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigError, match=r"API_KEYS \(@.*keys\)"):
            async with http(api_keys=[f"@{file}"]).open(services):
                pass

    def test_settings_do_not_show_their_keys(self) -> None:
        assert KEY not in repr(http(api_keys=["list-key-0123456789"]))
        assert "list-key" not in str(http(api_keys=["list-key-0123456789"]))

    async def test_a_key_is_made_once_and_shown_once(self, services: HttpServices, tmp_path: Path) -> None:
        settings = http(api_key="", state_dir=str(tmp_path / "state"))
        file = tmp_path / "state" / "api-key"
        async with settings.open(services) as notice:
            key = file.read_text().strip()
            assert key in notice
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            async with httpx.AsyncClient(base_url=notice.split()[0], headers={"x-api-key": key}) as client:
                assert (await client.post("/exec", json={"lang": "py", "code": "x"})).status_code == 200
        async with settings.open(services) as notice:
            assert key not in notice
            assert str(file) in notice
        assert [path.name for path in file.parent.iterdir()] == ["api-key"]

    async def test_without_a_place_for_a_key_one_is_asked_for(self, services: HttpServices, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for state_dir in ("", str(tmp_path / "file")):
            with pytest.raises(ConfigError, match="API_KEY"):
                async with http(api_key="", state_dir=state_dir).open(services):
                    pass
