"""The server while the model loads: an answer at once, the application afterwards, an error that a page shows."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from common.errors import UserError
from common.files import ROOT
from demo.server import startup as startup_module
from demo.server.startup import Startup, serving


def ask(url: str, method: str = "GET", **headers) -> tuple[int, dict, str]:
    try:
        with urlopen(Request(url, method=method, headers=headers), timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def application(events: list) -> Starlette:
    """Records the begin and end of its lifespan, with their tasks."""
    import asyncio

    @contextlib.asynccontextmanager
    async def lifespan(app):
        events.append(("begun", asyncio.current_task()))
        yield
        events.append(("ended", asyncio.current_task()))

    return Starlette(routes=[Route("/", lambda _: PlainTextResponse("the application"))], lifespan=lifespan)


@pytest.fixture
def place(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return tmp_path, free.getsockname()[1]


def test_a_slow_loader_is_waited_for_and_the_application_follows(place):
    folder, port = place
    url, events = f"http://127.0.0.1:{port}", []
    startup = Startup(folder)
    with serving(startup, "127.0.0.1", port):
        status, headers, text = ask(f"{url}/")  # the loader has not begun
        assert status == 503 and headers["retry-after"] == "2" and "Loading weights" in text
        assert "content-security-policy" in headers and headers["cache-control"] == "no-store"
        status, headers, text = ask(f"{url}/gradio_api/call/generate", "POST")
        assert status == 503 and headers["retry-after"] == "2" and "loading the model" in text
        assert ask(f"{url}/", "HEAD")[0] == 503
        startup.open(application(events))
        assert ask(f"{url}/")[::2] == (200, "the application")
        assert [name for name, _ in events] == ["begun"]
    assert [name for name, _ in events] == ["begun", "ended"] and events[0][1] is events[1][1]


def test_the_waiting_page_is_guarded(place):
    folder, port = place
    with serving(Startup(folder, "a long password", loopback=False), "127.0.0.1", port):
        url = f"http://127.0.0.1:{port}"
        assert ask(f"{url}/")[0] == 401
        assert ask(f"{url}/", Authorization="Bearer a long password")[0] == 503
        assert ask(f"{url}/etc/passwd", Authorization="Bearer a long password")[0] == 404


def test_an_open_page_shows_the_error_before_the_server_ends(place, monkeypatch):
    folder, port = place
    monkeypatch.setattr(startup_module, "PATIENCE", 30.0)
    seen = []

    def page() -> None:
        url = f"http://127.0.0.1:{port}/"
        seen.append(ask(url))
        opened.set()
        while seen[-1][0] == 503:
            time.sleep(0.05)
            seen.append(ask(url))

    opened, browser = threading.Event(), threading.Thread(target=page)
    with pytest.raises(UserError, match="no such"), serving(Startup(folder), "127.0.0.1", port):
        browser.start()
        opened.wait(10)
        raise UserError("checkpoint=<b>: no such\nfile")
    browser.join(10)
    assert seen[-1][0] == 500 and "checkpoint=&lt;b&gt;: no such file" in seen[-1][2]


def test_without_a_page_an_error_ends_the_server_at_once(place, monkeypatch):
    folder, port = place
    monkeypatch.setattr(startup_module, "PATIENCE", 30.0)
    begun = time.monotonic()
    with pytest.raises(UserError), serving(Startup(folder), "127.0.0.1", port) as thread:
        raise UserError("wrong")
    assert time.monotonic() - begun < 20 and not thread.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of uvicorn's exit
def test_a_port_in_use_is_an_error(place):
    folder, _ = place
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot listen"), serving(Startup(folder), *taken.getsockname()):
            pytest.fail("served")


@pytest.mark.slow
def test_the_first_answer_waits_for_no_library_of_the_model():
    code = "import sys, common.cli, uvicorn, demo.server.launch, demo.server.startup; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "gradio", "scipy", "pydicom", "pandas", "fastapi"} & set(done.stdout.split())
