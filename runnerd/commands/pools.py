"""`runnerd pools`: the sandboxes of a running daemon, by language, as they come and go."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import ConfigFile, Json, Set

if TYPE_CHECKING:
    from rich.table import Table

KEY_FILE = "api-key"
COLUMNS = ("warm", "target", "starting", "leased", "kept", "waiting", "starts", "failed_starts", "start_ms", "wait_ms")
EVERY_S = 1.0
PATIENCE_S = 10.0


def pools(
    *,
    url: Annotated[str, typer.Option("--url", help="Address of the daemon's HTTP ingress; by default, the configured one.")] = "",
    key: Annotated[str, typer.Option("--key", envvar="API_KEY", help="API key; by default, the configured or the kept one.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Print the table once.")] = False,
    json: Json = False,
    file: ConfigFile = "",
    flags: Set = None,
) -> None:
    """Show a daemon's pools: what stands warm, starts and is leased, how long starts take, and why they fail. Ctrl-C ends it."""
    import time

    from rich.live import Live

    source = _Source(*_where(url, key, file, flags or ()))
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(source.read()), indent=2))
    elif once:
        from rich import print as show

        show(table(source.read()))
    else:
        with Live(table(source.read()), auto_refresh=False) as live:
            while True:
                time.sleep(EVERY_S)
                live.update(table(source.read()), refresh=True)


def table(health: Mapping[str, Any]) -> "Table":
    """The pools of a daemon, from what it says of its health; languages that nobody wants are left out."""
    from rich.table import Table

    executor = health["executor"]
    title = f"{executor['name']}, level {executor['level']}: {health['running']} jobs run, {health['queued']} wait"
    found = Table("language", "reuse", *(name.replace("_", " ") for name in COLUMNS), "failing", title=title)
    for code, pool in health["pools"].items():
        if any(pool.get(name) for name in COLUMNS) or pool["failing"]:
            found.add_row(code, pool.get("reuse", "job"), *(f"{pool.get(name, 0):.0f}" for name in COLUMNS), pool["failing"])
    return found


class _Source:
    """A daemon's health, over HTTP."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/") + "/health/detailed"
        self._key = key

    def read(self) -> Any:
        """Raises RunnerdError."""
        import urllib.error
        import urllib.request

        import msgspec

        from ..errors import RunnerdError

        if not self._url.startswith(("http://", "https://")):
            raise RunnerdError(f"{self._url}: is no address of HTTP: write http://host:port")
        request = urllib.request.Request(self._url, headers={"x-api-key": self._key})  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:  # noqa: S310
                return msgspec.json.decode(response.read())
        except urllib.error.HTTPError as error:
            raise RunnerdError(
                f"{self._url}: answered {error.code}: {'give the key with --key' if error.code == 401 else error.reason}"
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise RunnerdError(f"{self._url}: no daemon answers: {error}: name one with --url") from None


def _where(url: str, key: str, file: str, flags: "list[str] | tuple[str, ...]") -> Iterator[str]:
    """Address and key: those given, else those that the configuration leads to."""
    from ..config import load_config
    from ..plugins import find_plugins

    settings = load_config(find_plugins(), file=file, flags=flags).settings
    http = settings.ingress.get("http")
    listens = http.listens() if http is not None else ()
    host, port = listens[0] if listens else ("127.0.0.1", 8000)
    yield url or f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104 - compared, not bound
    kept = Path(settings.state_dir) / KEY_FILE
    configured = getattr(http, "api_key", "")
    yield key or configured or (kept.read_text().strip() if kept.exists() else "")
