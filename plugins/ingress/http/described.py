"""Files as clients know them: four shapes of an entry in a list, and one of a single file. Plain data, no I/O."""

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from msgspec import Struct

from runnerd import Stored


class FileObject(Struct, kw_only=True):
    """A file of its own."""

    id: str
    name: str
    session_id: str
    storage_session_id: str
    size: int
    contentType: str  # noqa: N815 - the clients' spelling, as below
    etag: str
    lastModified: str  # noqa: N815
    """ISO 8601. When it was stored, or its session used last: what it takes for the file to stay."""
    originalFilename: str  # noqa: N815


def object_of(file: Stored, used: float) -> FileObject:
    """All that is known of a file; `used` is when its session was used last, in seconds since 1970."""
    return FileObject(
        id=file.id,
        name=file.name,
        session_id=file.session,
        storage_session_id=file.session,
        size=file.size,
        contentType=file.content_type,
        etag=f'"{file.sha256}"',
        lastModified=iso(max(file.created, used)),
        originalFilename=file.name,
    )


def described(file: Stored, used: float, detail: str) -> dict[str, Any]:
    """An entry of a list. What is no detail that is known gets everything."""
    modified = iso(max(file.created, used))
    path = f"{file.session}/{file.id}{PurePosixPath(file.name).suffix}"  # old clients cut the id out of it
    match detail:
        case "simple":
            return {"id": file.id, "name": file.name, "path": file.name}
        case "summary":
            return {"name": path, "size": file.size, "lastModified": modified, "etag": f'"{file.sha256}"'}
        case "normalized":
            return {
                "id": file.id,
                "name": file.name,
                "storage_session_id": file.session,
                "size": file.size,
                "contentType": file.content_type,
                "lastModified": modified,
            }
        case _:
            return {
                "name": path,
                "id": file.id,
                "session_id": file.session,
                "storage_session_id": file.session,
                "content": None,
                "size": file.size,
                "lastModified": modified,
                "etag": f'"{file.sha256}"',
                "metadata": {"content-type": file.content_type, "original-filename": file.name},
                "contentType": file.content_type,
            }


def iso(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601, in UTC and milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
