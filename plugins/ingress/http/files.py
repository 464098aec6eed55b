"""Files of sessions over HTTP: upload, list, download with ranges, delete. `described` has the shapes that clients know."""

import asyncio
from email.utils import formatdate
from typing import Any, Self
from urllib.parse import quote

from litestar import Request, Response, delete, get, post, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from litestar.response import Stream
from litestar.types import Guard
from msgspec import Struct

from runnerd import NotFound, OverLimit, Owner, Rejected, Session, Sessions, Stored

from .described import FileObject, described, object_of
from .exec import Malformed
from .incoming import patiently
from .parts import Part, Parts
from .ranges import Unsatisfiable, byte_range
from .scope import Scope

_AnyRequest = Request[Any, Any, Any]


class Uploaded(Struct, kw_only=True, omit_defaults=True):
    """One file of an upload."""

    filename: str
    """As it was sent."""
    fileId: str | None = None  # noqa: N815 - the clients' spelling
    status: str | None = None
    error: str | None = None


class UploadAnswer(Struct, kw_only=True, omit_defaults=True):
    """Where the files are."""

    message: str
    session_id: str
    storage_session_id: str
    files: list[Uploaded]
    succeeded: int | None = None
    failed: int | None = None


def file_routes(sessions: Sessions, scope: Scope, guard: Guard, body_timeout_s: float) -> list[HTTPRouteHandler]:
    """All routes about files."""
    return [*_uploads(sessions, scope, guard, body_timeout_s), *_lists(sessions, scope, guard), *_single(sessions, scope, guard)]


def _uploads(sessions: Sessions, scope: Scope, guard: Guard, body_timeout_s: float) -> list[HTTPRouteHandler]:
    def parts_of(request: _AnyRequest) -> Parts:
        return Parts(request.headers.get("content-type", ""), patiently(request, body_timeout_s))

    @post("/upload", status_code=200, guards=[guard], request_max_body_size=None)
    async def upload(request: _AnyRequest) -> UploadAnswer:
        """Store files in a new session, or in that of the field `session_id`. Fields come before the files."""
        parts = parts_of(request)
        async with _Place(sessions) as place:
            stored = [await place.store(scope.of(request, parts.fields), parts.fields, part) async for part in parts.files()]
        if not stored:
            raise Malformed("file: missing: send at least one part with a file name", "file")
        return UploadAnswer(message="success", session_id=place.session, storage_session_id=place.session, files=stored)

    @post("/upload/batch", status_code=200, guards=[guard], request_max_body_size=None)
    async def upload_batch(request: _AnyRequest) -> Response[UploadAnswer]:
        """Store many files in one session: those that can't be stored are named, and the others are."""
        parts = parts_of(request)
        place = _Place(sessions)  # those that were stored stay, whatever becomes of the others
        files = []
        async for part in parts.files():
            owner = scope.of(request, parts.fields)
            try:
                stored = await place.store(owner, parts.fields, part)
                files.append(Uploaded(filename=part.filename, fileId=stored.fileId, status="success"))
            except (Rejected, OverLimit) as error:
                files.append(Uploaded(filename=part.filename, status="error", error=str(error)))
        succeeded = sum(file.status == "success" for file in files)
        message = "success" if succeeded == len(files) and files else "partial_success" if succeeded else "error"
        answer = UploadAnswer(
            message=message,
            session_id=place.session,
            storage_session_id=place.session,
            files=files,
            succeeded=succeeded,
            failed=len(files) - succeeded,
        )
        return Response(answer, status_code=200 if succeeded else 400)

    return [upload, upload_batch]


class _Place:
    """The session that an upload goes to: a new one, made with its first file, or the one that is named."""

    def __init__(self, sessions: Sessions) -> None:
        self.session = ""
        self._sessions = sessions
        self._made: tuple[Owner, str] | None = None

    async def store(self, owner: Owner, fields: dict[str, str], part: Part) -> Uploaded:
        if not self.session:
            self.session = fields.get("session_id", "")
        if not self.session:
            self.session = (await self._sessions.create(owner)).id
            self._made = (owner, self.session)
        stored = await self._sessions.upload(owner, self.session, part.filename, part.content(), part.content_type)
        return Uploaded(filename=part.filename, fileId=stored.id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Leave nothing of a new session whose upload failed."""
        if error is not None and self._made is not None:
            await asyncio.shield(self._sessions.delete(*self._made))


def _lists(sessions: Sessions, scope: Scope, guard: Guard) -> list[HTTPRouteHandler]:
    @get("/files/{session_id:str}", guards=[guard])
    async def list_files(request: _AnyRequest, session_id: FromPath[str], detail: FromQuery[str] = "full") -> Response[Any]:
        """The current files of a session; `detail` is `simple`, `summary`, `normalized` or `full`. Empty where there is no such session."""
        try:
            session = await sessions.find(scope.of(request), session_id)
        except NotFound:
            return Response([])
        return Response([described(file, session.used, detail) for file in session.files])

    @get("/sessions/{session_id:str}/objects/{file_id:str}", guards=[guard])
    async def file_object(request: _AnyRequest, session_id: FromPath[str], file_id: FromPath[str]) -> FileObject:
        """What there is to know of a file. Clients send it again where its `lastModified` is too old."""
        session = await sessions.find(scope.of(request), session_id)
        return object_of(_file(session, file_id), session.used)

    return [list_files, file_object]


def _file(session: Session, file_id: str) -> Stored:
    for file in (*session.files, *session.older):
        if file.id == file_id:
            return file
    raise NotFound(f"there is no file {file_id[:80]!r} in this session")


def _single(sessions: Sessions, scope: Scope, guard: Guard) -> list[HTTPRouteHandler]:
    @route("/download/{session_id:str}/{file_id:str}", http_method=[HttpMethod.GET, HttpMethod.HEAD], guards=[guard])
    async def download(request: _AnyRequest, session_id: FromPath[str], file_id: FromPath[str]) -> Response[Any]:
        """A file's content, or a range of it (RFC 9110, section 14)."""
        owner = scope.of(request)
        file, content = await sessions.download(owner, session_id, file_id)
        headers = _headers(file)
        if request.headers.get("if-none-match", "") == headers["ETag"]:
            return Response(None, status_code=304, headers=headers)
        conditions = request.headers.get("if-range", headers["ETag"])
        try:
            asked = byte_range(request.headers.get("range", ""), file.size) if conditions == headers["ETag"] else None
        except Unsatisfiable:
            return Response(None, status_code=416, headers={"Content-Range": f"bytes */{file.size}"})
        start, end = asked or (0, file.size)
        headers["Content-Length"] = str(end - start)
        if asked is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
            _, content = await sessions.download(owner, session_id, file_id, start, end)
        status = 206 if asked is not None else 200
        if request.method == HttpMethod.HEAD:
            return Response(None, status_code=status, headers=headers)
        return Stream(content, status_code=status, headers=headers)

    @delete(["/files/{session_id:str}/{file_id:str}", "/sessions/{session_id:str}/objects/{file_id:str}"], guards=[guard], status_code=200)
    async def remove(request: _AnyRequest, session_id: FromPath[str], file_id: FromPath[str]) -> None:
        """Remove a file."""
        await sessions.remove(scope.of(request), session_id, file_id)

    return [download, remove]


def _headers(file: Stored) -> dict[str, str]:
    name = file.name.rpartition("/")[2]
    ascii_name = "".join(c if " " <= c <= "~" and c not in '"\\' else "_" for c in name)
    return {
        "Content-Type": file.content_type,  # as it was given: nobody knows in which charset a text is
        "Content-Disposition": f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='')}",
        "Cache-Control": "private, max-age=3600",
        "Access-Control-Allow-Origin": "*",
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "ETag": f'"{file.sha256}"',
        "Last-Modified": formatdate(file.created, usegmt=True),
    }
