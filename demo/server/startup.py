"""The server while the model loads: answers at once with a page that waits, then with the application."""

import asyncio
import html
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import UserError
from demo.server.security import LOOPBACK, SMALL_BODY, Guard

RETRY_AFTER = 2  # seconds
PATIENCE = 4.0  # seconds that a failed server waits for an open page to show the error; the page asks each 0.5 s
LOADING = "loading the model; try again in a few seconds"
PAGE = Path(__file__).with_name("startup.html")


class Startup:
    """ASGI application that answers 503 with `Retry-After` while the model loads, and then is `open`'s application.

    The page reloads itself when the application answers, and shows the error with status 500 when loading failed.

    Args:
        files: folder of this run.
        password, loopback: as in `build_app`.
    """

    def __init__(self, files: Path, password: str | None = None, loopback: bool = True):
        hosts = LOOPBACK if loopback else None
        self.error = ""
        self._app: ASGIApp = Guard(self._wait, files, SMALL_BODY, password, hosts)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: asyncio.Task | None = None
        self._running, self._ended = threading.Event(), asyncio.Event()
        self._waiting, self._shown = threading.Event(), threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request, and the lifespan of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._app(scope, receive, send)

    def open(self, app) -> None:
        """Replaces the waiting page by `app`, a Starlette application, whose lifespan begins; thread-safe."""
        self._running.wait()
        started = asyncio.run_coroutine_threadsafe(self._run(app), self._loop)
        started.result()

    def fail(self, error: str) -> None:
        """Shows the error in place of the page; waits until a page that is open has shown it, at most `PATIENCE`."""
        self.error = error
        if self._waiting.is_set():
            self._shown.wait(PATIENCE)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope["path"], scope["method"])(scope, receive, send)
        if scope["path"] == "/" and scope["method"] == "GET":
            self._waiting.set()
            if self.error:
                self._shown.set()

    def _answer(self, path: str, method: str) -> Response:
        status, headers = (500, {}) if self.error else (503, {"Retry-After": str(RETRY_AFTER)})
        if path != "/":
            return JSONResponse({"error": self.error or LOADING}, status, headers)
        state = "failed" if self.error else "loading"
        shown = f"The model could not be loaded: {self.error}" if self.error else "Loading weights …"
        text = PAGE.read_text(encoding="utf-8").replace("{{state}}", state).replace("{{text}}", html.escape(shown))
        return HTMLResponse(text, status, headers)

    async def _live(self, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        await receive()
        await send({"type": "lifespan.startup.complete"})
        self._running.set()
        await receive()
        self._ended.set()
        if self._life is not None:
            await self._life
        await send({"type": "lifespan.shutdown.complete"})

    async def _run(self, app) -> None:
        """Begins the lifespan of `app` in a task of its own, since the task that enters it has to leave it."""
        begun = self._loop.create_future()

        async def live() -> None:
            try:
                async with app.router.lifespan_context(app):
                    begun.set_result(None)
                    await self._ended.wait()
            except BaseException as error:
                if begun.done():
                    raise
                begun.set_exception(error)

        self._life = self._loop.create_task(live())
        await begun
        self._app = app


@contextmanager
def serving(startup: Startup, host: str, port: int) -> Iterator[threading.Thread]:
    """Serves in a thread during the block, which loads the model; yields the thread.

    A UserError of the block is shown on an open page before the server ends.
    """
    import uvicorn

    options = {"access_log": False, "log_level": "error", "server_header": False, "ws": "none"}
    config = uvicorn.Config(startup, host=host, port=port, timeout_graceful_shutdown=2, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="server", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    if not server.started:
        raise UserError(f"host={host} port={port}: cannot listen there; give another")
    try:
        yield thread
    except UserError as error:
        startup.fail(" ".join(str(error).split()))
        raise
    finally:
        server.should_exit = True
        thread.join(timeout=10.0)
