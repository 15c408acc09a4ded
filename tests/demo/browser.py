"""A headless Chromium for the tests of pages, and a loopback server of named files for the viewer alone."""

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
]
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".gz": "application/gzip"}
PATIENCE = 60_000  # ms: software rendering on a shared core is slow


def missing() -> str | None:
    """Why no page can be tested here, or None."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed, pages are not tested"
    from demo.server.app_factory import NIIVUE

    if not os.access(CHROMIUM, os.X_OK):
        return f"no Chromium at {CHROMIUM}, pages are not tested"
    return None if NIIVUE.is_file() else "the viewer is not installed (make web), pages are not tested"


needs_browser = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@contextmanager
def chromium() -> Iterator:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def watched_page(browser, size: tuple[int, int] = (1280, 900), **options) -> Iterator:
    """A page that records its requests (`page.asked`) and errors (`page.wrong`)."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.asked, page.wrong = [], []
    context.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda said: page.wrong.append(said.text) if said.type == "error" else None)
    yield page
    context.close()


def outside(page) -> list[str]:
    """Requested addresses outside this machine."""
    inner = ("data", "blob", "about", "chrome")
    found = [urlsplit(url) for url in page.asked]
    return [
        url.geturl() for url in found if url.scheme not in inner and url.hostname not in ("127.0.0.1", "localhost")
    ]


def pixels(page, box: dict, style: str = "") -> np.ndarray:
    """Screenshot of a box `{x, y, width, height}` under an added style: luminance `(h, w)`, 0 to 255."""
    picture = Image.open(BytesIO(page.screenshot(clip=box, style=style))).convert("L")
    return np.asarray(picture, dtype=float)


def upload(page, path, where: str = "#xc-xray") -> None:
    page.locator(f"{where} input[type=file]").set_input_files(path)


def generate(page, **requests) -> None:
    """Sets numbers under "advanced", then presses the button."""
    page.locator("#xc-advanced > button").click()
    page.wait_for_timeout(1500)  # Gradio fills it after opening, which overwrites earlier input
    for label, value in requests.items():
        field = page.get_by_label(label.capitalize())
        field.fill(str(value))
        field.press("Tab")
    page.locator("#xc-generate").click()


@contextmanager
def served(files: dict[str, Path | Callable[[], bytes]]) -> Iterator[str]:
    """The address of a loopback server of `files` by route."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802, the name is given
            source = files.get(urlsplit(self.path).path)
            self.send_response(200 if source is not None else 404)
            body = b"" if source is None else source() if callable(source) else Path(source).read_bytes()
            self.send_header("Content-Type", TYPES.get(Path(urlsplit(self.path).path).suffix, "text/html"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Prints nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
