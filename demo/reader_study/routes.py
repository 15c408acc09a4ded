"""Web page of a blinded reader study: a reader logs in, sees one volume at a time, and answers its questions.

Blinding: the URL of a volume is a keyed hash of reader and position, so it reveals neither item nor repeat. The server
sends volumes uncompressed (the compressed size depends on smoothness), without file time or name, and requires one
size and one header for all files of a study. It sends only the current volume of a reader, and never opens the sealed
key.

`readers_app` is mounted under `/readers`; the page takes the viewer from `../viewer/viewer.js`.
"""

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import UserError
from demo.reader_study.access import LoginLimiter, Session, Sessions, reader_codes, reader_of
from demo.reader_study.answers import Answers, ClosedReading, Reading
from evaluation.readers.study_folder import Study, read_study

PAGE = Path(__file__).resolve().parent / "page"
PAGES = {"": "index.html", "readers.js": "readers.js", "questions.js": "questions.js", "readers.css": "readers.css"}
COOKIE = "reader_session"
MAX_BODY = 4096  # maximum bytes of a request
CHUNK = 1 << 20
NIFTI_HEADER = 352  # bytes before the first voxel
HEADERS = {
    "Cache-Control": "no-store, no-transform",
    # NiiVue loads its decoders from blobs and its fonts from data URLs
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'wasm-unsafe-eval'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Code(BaseModel):
    """Body of a login."""

    model_config = ConfigDict(strict=True, extra="forbid")
    code: str = Field(max_length=100)


class Place(BaseModel):
    """Reading of a request, and seconds on screen since the last request."""

    model_config = ConfigDict(strict=True, extra="forbid")
    reading: str = Field(max_length=100)
    seconds: float = Field(0.0, ge=0.0, le=86_400.0, allow_inf_nan=False)


class Given(Place):
    """One answer; None removes it."""

    question: str = Field(max_length=100)
    answer: int | None


class StudyServer:
    """Shared state of the routes: study, answers, codes, sessions."""

    def __init__(self, study: Path, answers: Path | None):
        self.study = read_study(study)
        folder = self.study.folder / "answers" if answers is None else Path(answers)
        self.files = volume_files(self.study)
        self.answers = Answers(folder / "answers.sqlite", self.study)
        self.answers.export_all()
        self.codes = reader_codes(folder / "access_codes.txt", self.study.orders)
        self.sessions, self.limiter = Sessions(), LoginLimiter()

    def name(self, reader: str, position: int) -> str:
        """Public name of a reading: a keyed hash, the same after a restart."""
        place = f"{reader}/{position}".encode()
        return hmac.new(self.answers.secret, place, hashlib.sha256).hexdigest()[:32]

    def current(self, reader: str, name: str) -> Reading | None:
        """Returns the reader's open reading if its name is `name`, else None."""
        reading = self.answers.current(reader)
        named = reading and hmac.compare_digest(self.name(reader, reading.position).encode(), name.encode())
        return reading if named else None

    def state(self, session: Session) -> dict:
        """Returns the content of the page as JSON."""
        about, reading = self.study.about, self.answers.open(session.reader)
        state = {
            "title": about.get("title", ""),
            "mark": about.get("mark", ""),
            "window": about.get("window"),
            "questions": [{"name": q.name, "text": q.text, "choices": list(q.choices)} for q in self.study.questions],
            "total": len(self.study.orders[session.reader]),
            "proof": session.proof,
            "reading": None,
        }
        if reading is not None:
            name = self.name(session.reader, reading.position)
            state |= {"reading": name, "volume": f"volume/{name}.nii", "position": reading.position}
            state["answers"] = reading.answers
        return state


def readers_app(study: str | Path, answers: str | Path | None = None) -> FastAPI:
    """Returns the readers' app, to mount under `/readers`; UserError for files that do not fit the study.

    Args:
        study: folder of the study.
        answers: folder for `answers.sqlite`, its tables and `access_codes.txt`; None = `answers` in the study, which
            the analysis reads.
    """
    app = FastAPI(title="Reader study", docs_url=None, redoc_url=None, openapi_url=None, max_body_size=MAX_BODY)
    app.state.server = StudyServer(Path(study), answers)
    app.add_middleware(Headers)
    app.include_router(routes)
    return app


def volume_files(study: Study) -> dict[str, Path]:
    """Returns the file of every item in `volumes`; UserError unless all have one size and header, else unblinded."""
    inside, files, first = (study.folder / "volumes").resolve(), {}, None
    for entry in study.about["items"]:
        path = (study.folder / entry["file"]).resolve()
        if inside not in path.parents:
            raise UserError(f"{study.folder}/study.json: file={entry['file']} lies outside of volumes/; restore it")
        if not path.is_file():
            raise UserError(f"{path}: no such file; restore the study's volumes")
        with open(path, "rb") as file:
            found = (path.stat().st_size, file.read(NIFTI_HEADER))
        first = first or found
        if found != first:
            raise UserError(f"{path}: its size or header differs from the others', which unblinds; restore it")
        files[entry["item"]] = path
    lacking = {code for order in study.orders.values() for code in order} - set(files)
    if lacking:
        raise UserError(f"{study.folder}/study.json: {sorted(lacking)[0]} is read but is no item; restore the file")
    return files


def study_server(request: Request) -> StudyServer:
    return request.app.state.server


def reader_session(request: Request) -> Session:
    """Returns the session of a request; 401 without one."""
    session = study_server(request).sessions.find(request.cookies.get(COOKIE))
    if session is None:
        raise HTTPException(401, "Please log in.")
    return session


def from_this_page(request: Request) -> None:
    """Refuses cross-site requests."""
    origin, fetch = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if fetch != "same-origin" or (origin and urlsplit(origin).netloc != request.headers.get("host")):
        raise HTTPException(403, "This request came from another site.")


def proven_session(request: Request, session: Annotated[Session, Depends(reader_session)]) -> Session:
    """Returns the session of a request with a valid CSRF token; 403 otherwise."""
    from_this_page(request)
    if not hmac.compare_digest(request.headers.get("x-proof", "").encode(), session.proof.encode()):
        raise HTTPException(403, "This request did not come from the readers' page.")
    return session


routes = APIRouter()
TheStudy = Annotated[StudyServer, Depends(study_server)]
TheSession = Annotated[Session, Depends(reader_session)]
Proven = Annotated[Session, Depends(proven_session)]


@routes.post("/api/login", dependencies=[Depends(from_this_page)])
def log_in(request: Request, given: Code, server: TheStudy) -> Response:
    address = request.client.host if request.client else ""
    wait = server.limiter.enter(address)
    if wait > 0:
        seconds = str(int(wait) + 1)
        raise HTTPException(429, f"Too many wrong codes. Please wait {seconds} seconds.", {"Retry-After": seconds})
    reader = reader_of(given.code, server.codes)
    if reader is None:
        raise HTTPException(401, "This code is not known. Please check it.")
    server.limiter.forgive(address)
    token = server.sessions.start(reader)
    response = JSONResponse(server.state(server.sessions.find(token)))
    path = request.scope.get("root_path", "") + "/"
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, path=path)
    return response


@routes.post("/api/logout")
def log_out(request: Request, session: Proven, server: TheStudy) -> Response:
    server.sessions.end(request.cookies.get(COOKIE))
    response = JSONResponse({})
    response.delete_cookie(COOKIE, path=request.scope.get("root_path", "") + "/")
    return response


@routes.get("/api/reading")
def show_reading(session: TheSession, server: TheStudy) -> dict:
    return server.state(session)


@routes.post("/api/answer")
def save_answer(given: Given, session: Proven, server: TheStudy) -> dict:
    with _open_position(server, session, given) as position:
        server.answers.save(session.reader, position, given.question, given.answer, given.seconds)
    return {"saved": given.answer}


@routes.post("/api/next")
def next_reading(given: Place, session: Proven, server: TheStudy) -> dict:
    """Locks the current reading and returns the next state."""
    with _open_position(server, session, given) as position:
        server.answers.close(session.reader, position, given.seconds)
    return server.state(session)


@routes.get("/volume/{name}.nii")
def send_volume(name: str, session: TheSession, server: TheStudy) -> Response:
    """Sends the volume of the reader's open reading; 404 for every other name."""
    reading = server.current(session.reader, name)
    if reading is None:
        raise HTTPException(404, "Not found")
    path = server.files[reading.item]
    # Marked as encoded, so that no proxy compresses it: the compressed size reveals smoothness.
    headers = {"Content-Length": str(path.stat().st_size), "Content-Encoding": "identity"}
    return StreamingResponse(_chunks(path), media_type="application/octet-stream", headers=headers)


@routes.get("/")
@routes.get("/{name}")
def send_page(name: str = "") -> Response:
    if name not in PAGES:
        raise HTTPException(404, "Not found")
    return FileResponse(PAGE / PAGES[name])


@contextmanager
def _open_position(server: StudyServer, session: Session, given: Place) -> Iterator[int]:
    """Yields the position of the open reading; 409 if it is closed, 422 for a wrong answer."""
    try:
        reading = server.current(session.reader, given.reading)
        if reading is None:
            raise ClosedReading
        yield reading.position
    except ClosedReading as error:
        raise HTTPException(409, "This volume was finished in another window.") from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


class Headers:
    """Adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)
