"""API keys: where they come from, and whether a request carries one. Only hashes are kept, and none is ever logged."""

import hmac
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import structlog

from runnerd import ConfigError

SHORTEST = 16
FILE = "api-key"
LOG_EVERY_S = 10.0
"""Refused requests are logged at most once in so many seconds, with their number."""

log = structlog.get_logger("runnerd.security")


class Refused(Exception):
    """A request without a key that is known. The text says what to do, and holds nothing that was sent."""


class Keys:
    """The keys that are known, by hash."""

    def __init__(self, keys: Iterable[str], header: str) -> None:
        self._hashes = tuple({sha256(key.encode()).digest() for key in keys})
        self._header = header.lower()
        self.refused = 0
        """How many requests were refused."""
        self._quiet_until = 0.0

    def check(self, headers: Mapping[str, str], peer: str) -> None:
        """Pass a request that carries a known key. Raises Refused."""
        candidates = self._candidates(headers)
        # every key is compared with every candidate, so that the time says nothing about any of them
        matches = [hmac.compare_digest(candidate, known) for candidate in candidates for known in self._hashes]
        if any(matches):
            return
        reason = "the API key is not known here" if candidates else "no API key"
        self._count(reason, peer)
        raise Refused(f"{reason}: send it as {self._header} or as Authorization: Bearer")

    def _candidates(self, headers: Mapping[str, str]) -> list[bytes]:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() in ("bearer", "apikey") else ""
        sent = (headers.get(self._header, "").strip(), bearer)
        return [sha256(key.encode()).digest() for key in sent if key]

    def _count(self, reason: str, peer: str) -> None:
        self.refused += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + LOG_EVERY_S
            log.warning("http_request_refused", reason=reason, peer=peer, refused=self.refused)


def open_keys(api_key: str, api_keys: tuple[str, ...], header: str, state_dir: str) -> tuple[Keys, str]:
    """The keys of the settings, or the one made at the first start; and a notice for people that says which.

    The notice holds the key itself only when it has just been made. Raises ConfigError.
    """
    try:
        keys = [*spelt_keys(api_key, api_keys), *(key for name in api_keys if name.startswith("@") for key in _read_keys(name[1:]))]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if keys:
        return Keys(keys, header), "API key: as configured"
    if not state_dir:
        raise ConfigError("API_KEY: missing, and there is no state_dir to keep a new key in: set one of them")
    path = Path(state_dir) / FILE
    key, made = _kept_key(path)
    notice = f"API key, shown only now: {key} - kept in {path}" if made else f"API key: in {path}"
    return Keys([key], header), notice


def spelt_keys(api_key: str, api_keys: tuple[str, ...]) -> tuple[str, ...]:
    """The keys that the settings spell out; those of @FILE are not read here. Raises ValueError, naming the variable."""
    named = [("API_KEY", api_key.strip())] if api_key.strip() else []
    named += [("API_KEYS", key) for key in api_keys if not key.startswith("@")]
    for variable, key in named:
        _check_key(key, variable)
    return tuple(key for _, key in named)


def _check_key(key: str, where: str) -> None:
    if len(key) < SHORTEST:
        raise ValueError(f"{where}: a key has {len(key)} characters: at least {SHORTEST} are needed")
    if not all("!" <= c <= "~" for c in key):
        raise ValueError(f"{where}: a key has blanks or characters that a header can't carry: use visible ASCII")


def _read_keys(name: str) -> list[str]:
    """The keys in a file: one per line, lines that start with # aside."""
    where = f"API_KEYS (@{name})"
    try:
        lines = [line.strip() for line in Path(name).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: can't be read: {error}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"{where}: holds no key")
    for key in keys:
        _check_key(key, where)
    return keys


def _kept_key(path: Path) -> tuple[str, bool]:
    """The key in `path`, made if there is none; and whether it was made now. Raises ConfigError."""
    try:
        made = not path.exists() and _keep(path, f"sk-{secrets.token_urlsafe(24)}")
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the API key can't be kept here: {error}: set API_KEY, or another state_dir") from None
    try:
        _check_key(key, str(path))
    except ValueError as error:
        raise ConfigError(f"{error}: remove the file to have a new one made") from None
    return key, made


def _keep(path: Path, key: str) -> bool:
    """Write the key whole or not at all; False where another was faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(key + "\n")
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True
