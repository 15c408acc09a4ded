"""The waiting page in a real browser: it ends by itself with the application, or with the error."""

import re
import time

import pytest
from browser import chromium, needs_browser, outside, watched_page

pytest.importorskip("gradio", reason="gradio is not installed, the page is not tested")
from demo_parts import small_service  # noqa: E402

from common.errors import UserError  # noqa: E402
from demo.server.startup import Startup, serving  # noqa: E402

pytestmark = [needs_browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


@pytest.fixture
def port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_page_opens_by_itself_when_the_model_is_loaded(browser, port, tmp_path):
    from demo.server.app_factory import build_app

    startup = Startup(tmp_path)
    with serving(startup, "127.0.0.1", port), watched_page(browser) as page:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("text=Loading weights")
        page.wait_for_timeout(1200)  # some questions later it still waits
        assert page.locator("progress").is_visible() and "not for diagnosis" in page.content()
        service = small_service(tmp_path / "run")
        startup.open(build_app(service))
        page.wait_for_selector("#xc-generate")
        assert outside(page) == [] and all("503" in line for line in page.wrong)
        service.close()


def test_an_error_of_loading_is_shown_on_the_open_page(browser, port, tmp_path):
    with watched_page(browser) as page:
        with pytest.raises(UserError), serving(Startup(tmp_path), "127.0.0.1", port):
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_timeout(600)
            begun = time.monotonic()
            raise UserError("checkpoint=x.ckpt: no such file")
        assert time.monotonic() - begun < 25
        page.wait_for_selector("text=x.ckpt")
        assert re.search("could not be loaded: checkpoint=x.ckpt: no such file", page.inner_text("#xc-startup"))
        assert not page.locator("progress").is_visible()
