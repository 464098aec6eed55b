"""Who people are for a NATS server: nkeys, credentials files, and the JWTs of an operator who vouches for them."""

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys

_TYPES = {nkeys.PREFIX_BYTE_OPERATOR: "operator", nkeys.PREFIX_BYTE_ACCOUNT: "account", nkeys.PREFIX_BYTE_USER: "user"}
_UNLIMITED = {"subs": -1, "data": -1, "payload": -1}
_ACCOUNT = {"limits": {**_UNLIMITED, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}}


class Identity:
    """A new key pair of an operator, an account or a user."""

    def __init__(self, prefix: int = nkeys.PREFIX_BYTE_USER) -> None:
        self.kind = _TYPES[prefix]
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def vouch(self, who: "Identity", **claims: Any) -> str:
        """A JWT for somebody, signed by this one."""
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {
            "jti": "x" * 52,
            "iat": int(time.time()),
            "iss": self.public,
            "sub": who.public,
            "name": who.kind,
            "nats": {"type": who.kind, "version": 2, **claims},
        }
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, body))
        return f"{signed}.{_encoded(self._pair.sign(signed.encode()))}"


def operator_mode() -> tuple[dict[str, Any], str]:
    """Settings of a server that believes an operator, and a credentials file of one of its users."""
    operator, account, user = (Identity(each) for each in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER))
    settings = {
        "operator": operator.vouch(operator),
        "resolver": "MEMORY",
        "resolver_preload": {account.public: operator.vouch(account, **_ACCOUNT)},
    }
    return settings, credentials(account.vouch(user, **_UNLIMITED), user)


def credentials(jwt: str, user: Identity) -> str:
    """The text of a credentials file."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )


def written(path: Path, text: str | bytes) -> str:
    """Write a file and return its name."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
