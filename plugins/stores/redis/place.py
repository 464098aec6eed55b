"""Where the server is, and who we are there: made of a URL or of single settings."""

from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from . import Redis

_WRITE = "write redis://user:password@host:6379/0, with %40 for @, %2F for /, %23 for # and %3A for : in the password"


class Place(Struct, frozen=True, kw_only=True):
    """A server, a cluster's first node, or the sentinels that know the server."""

    host: str
    port: int
    db: int
    username: str
    password: str
    tls: bool
    socket: str = ""
    """Path of the server's Unix socket, in place of host and port."""
    cluster: bool = False
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""

    def __str__(self) -> str:
        """For people: never a password."""
        if self.sentinels:
            return f"{self.service} at sentinel {', '.join(address(*sentinel) for sentinel in self.sentinels)}"
        return self.socket or address(self.host, self.port) + (" (cluster)" if self.cluster else "")


def address(host: str, port: int) -> str:
    """host:port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def place_of(redis: "Redis") -> Place:
    """What the settings say. Raises ValueError, naming the setting and the fix, and never a password."""
    place = Place(
        host=redis.host,
        port=redis.port,
        db=redis.db,
        username=redis.username,
        password=redis.password,
        tls=redis.tls,
        cluster=redis.cluster,
        sentinels=tuple(_sentinel(written) for written in redis.sentinels),
        service=redis.sentinel_service,
    )
    if redis.url:
        place = _of_url(place, redis.url)
    if "://" in place.host or "/" in place.host or "@" in place.host:
        raise ValueError("host: is a URL: write the name alone, or set url (REDIS_URL)")
    if place.cluster and place.sentinels:
        raise ValueError("cluster: a cluster has no sentinels: set one of cluster and sentinels")
    if place.cluster and place.db:
        raise ValueError("db: a cluster has only database 0")
    if place.socket and (place.cluster or place.sentinels):
        raise ValueError("url: a Unix socket leads to one server: leave out cluster and sentinels")
    return place


def _sentinel(written: str) -> tuple[str, int]:
    host, _, port = written.rpartition(":")
    return host.strip("[]"), int(port)


def _of_url(place: Place, url: str) -> Place:
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:  # its message may show a part of the password
        raise ValueError(f"url: is not understood: {_WRITE}") from None
    if parts.scheme not in ("redis", "rediss", "unix") or parts.fragment or not (parts.hostname or parts.scheme == "unix"):
        raise ValueError(f"url: is not understood: {_WRITE}")
    place = replace(
        place,
        tls=place.tls or parts.scheme == "rediss",
        host=parts.hostname or place.host,
        port=port or 6379,
        db=_db(parts, place.db),
        socket=unquote(parts.path) if parts.scheme == "unix" else "",
    )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if user and not password:
        # redis://password@host, as people write it: a user without a password does not exist
        user, password = "", user
    return replace(place, username=user or place.username, password=password or place.password)


def _db(parts: SplitResult, db: int) -> int:
    options = parse_qs(parts.query)
    if set(options) - {"db"}:
        raise ValueError(f"url: its option {min(set(options) - {'db'})} is not known: use the settings of the store")
    named = options.get("db", [""])[0] or ("" if parts.scheme == "unix" else parts.path.strip("/"))
    if not named:
        return db
    if not named.isascii() or not named.isdigit():
        raise ValueError(f"url: the database is a number: {_WRITE}")
    return int(named)
