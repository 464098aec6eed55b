"""Names of files, made safe once, where they come in; ids; and the keys under which the stores have things."""

import hashlib
import mimetypes
import secrets
import string
import unicodedata

from ..errors import Rejected
from ..validity import check_name

OCTETS = "application/octet-stream"

_ALPHABET = string.ascii_letters + string.digits + "_-"
_ID_LENGTH = 21
_DEEPEST = 32


def new_token(length: int = _ID_LENGTH) -> str:
    """A random id that nobody can guess, of characters that need no escaping anywhere."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def safe_name(given: str, field: str, longest: int) -> str:
    """A name as an uploader gave it, as a path that stays below its directory: directories and Unicode (NFC) are kept.

    Backslashes separate as slashes do; empty, `.` and `..` parts, control characters and a drive's letter go.
    Raises Rejected where nothing is left of it, or a part is longer than `longest` bytes of UTF-8.
    """
    text = unicodedata.normalize("NFC", given).replace("\\", "/")
    printable = "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cs"))
    parts = [part for part in (part.strip() for part in printable.split("/")) if part not in ("", ".", "..")]
    if len(parts) > 1 and len(parts[0]) == 2 and parts[0][1] == ":":
        del parts[0]
    if not parts:
        raise Rejected(f"{field}: {given[:80]!r} is no name for a file: give one with letters")
    if len(parts) > _DEEPEST:
        raise Rejected(f"{field}: {given[:80]!r} has more than {_DEEPEST} directories: use fewer")
    return check_length("/".join(parts), field, longest)


def check_length(name: str, field: str, longest: int) -> str:
    """Return `name` where it can be a file's. Raises Rejected, naming `field` and the setting to raise."""
    check_name(name, field)
    if any(len(part.encode()) > longest for part in name.split("/")):
        raise Rejected(f"{field}: a part is longer than {longest} bytes: raise the daemon's setting limits.filename_bytes")
    return name


def content_type_of(name: str, given: str = "") -> str:
    """What the uploader says, else what the name tells."""
    plain = given.strip()
    if plain and plain.isascii() and plain.isprintable() and len(plain) <= 255:
        return plain
    return mimetypes.guess_type(name, strict=False)[0] or OCTETS


def head_key(tenant: str, session: str) -> str:
    """The entry of a session."""
    return f"sessions/{tenant}/{session}"


def member_of(tenant: str, session: str, entity: str) -> str:
    """A session in the rankings: its key, and a digest of its entity, which may be called anything."""
    return f"{head_key(tenant, session)}/{hashlib.blake2b(entity.encode(), digest_size=16).hexdigest()}"


def entity_ranking(member: str) -> str:
    """The ranking of the sessions of a member's entity."""
    _, tenant, _, entity = member.split("/")
    return f"entities/{tenant}/{entity}"


def file_key(tenant: str, session: str, file: str) -> str:
    """The blob of a file."""
    return f"files/{tenant}/{session}/{file}"


def state_key(tenant: str, session: str, version: str) -> str:
    """A snapshot, as an entry or as a blob."""
    return f"states/{tenant}/{session}/{version}"


def parts_of(key: str) -> tuple[str, str]:
    """Tenant and session of a key or a ranking's member."""
    _, tenant, session, *_ = key.split("/")
    return tenant, session
