"""Middleware for every route: authentication, allowed routes, body size and security headers.

Gradio has many routes. Only those that the page and its client need are allowed, so that no other route, also of a new
version, can read a file or reach the network.
"""

import asyncio
import base64
import binascii
import re
import secrets
from pathlib import Path
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FILE = "/gradio_api/file="
SESSION = r"[\w-]{1,128}"
OPEN = re.compile(
    r"/|/(config|theme\.css|manifest\.json|favicon\.ico|robots\.txt|login_check|pwa_icon(/\d+)?)/?"
    r"|/(assets|static|svelte)/[\w./@+-]+"
    r"|/gradio_api/(info|app_id|startup-events|theme\.css|openapi\.json|login_check|upload|upload_progress"
    rf"|queue/(join|data)|cancel|reset|call/{SESSION}(/{SESSION})?|run/{SESSION}|api/{SESSION}|heartbeat/{SESSION})/?"
    rf"|/result/{SESSION}/[\w.]+|/viewer/[\w./-]+|/readers(/[\w./-]*)?"
)
SMALL_BODY = 4 << 20  # maximum bytes of a request other than an upload
WRONG_PASSWORD_SECONDS = 1.0
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-src 'none'; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class TooLarge(Exception):
    """The body exceeds its limit."""


class Guard:
    """Middleware around the whole application.

    Args:
        files: the only folder that Gradio's file route may read.
        max_bytes: maximum size of an upload.
        password: required from every client if given: Basic credentials with any user name, or
            `Authorization: Bearer`.
        hosts: allowed host names, against DNS rebinding; None = any.
    """

    def __init__(self, app: ASGIApp, files: Path, max_bytes: int, password: str | None, hosts: tuple | None):
        self.app, self.files, self.max_bytes = app, Path(files).resolve(), max_bytes
        self.password, self.hosts = password, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page needs no WebSocket
            return await send({"type": "websocket.close", "code": 1008})
        headers, started = Headers(scope=scope), False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started, given = True, MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    given.setdefault(name, value)
                if scope["path"].startswith("/viewer/"):  # no name changes with its content
                    given.setdefault("cache-control", "no-cache")
                elif not scope["path"].startswith(("/assets/", "/static/")):
                    given.setdefault("cache-control", "no-store")
            await send(message)

        refusal = await self._refusal(scope, headers)
        if refusal is not None:
            return await refusal(scope, receive, send_guarded)
        try:
            await self.app(scope, self._counted(scope, receive), send_guarded)
        except TooLarge:
            if not started:
                await PlainTextResponse("too large", 413)(scope, receive, send_guarded)
        return None

    async def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname if re.fullmatch(r"[\w.:\[\]-]{1,255}", host) else None
        if self.hosts is not None and name not in self.hosts:
            return PlainTextResponse("this server answers on this machine alone", 421)
        if self.password is not None and not self._has_password(headers.get("authorization", "")):
            if "authorization" in headers:
                await asyncio.sleep(WRONG_PASSWORD_SECONDS)
            return PlainTextResponse("password", 401, {"WWW-Authenticate": 'Basic realm="xray2ct", charset="UTF-8"'})
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("not allowed", 405)
        origin = headers.get("origin")
        if scope["method"] == "POST" and origin and urlsplit(origin).netloc != host:
            return PlainTextResponse("from another site", 403)
        if not self._is_allowed(scope):
            return PlainTextResponse("not found", 404)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._body_limit(scope):
            return PlainTextResponse("too large", 413)
        return None

    def _has_password(self, authorization: str) -> bool:
        kind, _, value = authorization.partition(" ")
        if kind.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif kind.lower() != "bearer":
            return False
        return secrets.compare_digest(value.strip().encode(), str(self.password).encode())

    def _is_allowed(self, scope: Scope) -> bool:
        path = scope["path"]
        raw = scope.get("raw_path", b"").decode("latin-1").partition("?")[0]
        # raw, decoded once and decoded twice, because a route may decode again
        for text in (raw, path, unquote(path)):
            if "\\" in text or "\0" in text or ".." in text.split("/") or any(ord(c) < 32 for c in text):
                return False
        if path.startswith(FILE):
            asked = Path("/" + path.removeprefix(FILE).lstrip("/"))
            return asked.is_file() and self.files in asked.resolve().parents
        return OPEN.fullmatch(path) is not None

    def _body_limit(self, scope: Scope) -> int:
        # a form adds boundaries and headers to the file
        return self.max_bytes + 65536 if scope["path"].startswith("/gradio_api/upload") else SMALL_BODY

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        most, found = self._body_limit(scope), 0

        async def counted() -> Message:
            nonlocal found
            message = await receive()
            found += len(message.get("body", b""))
            if found > most:
                raise TooLarge
            return message

        return counted
