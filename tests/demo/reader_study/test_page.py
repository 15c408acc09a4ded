"""The readers' page in a real browser: log in, read, close, resume, finish by keys alone, analyse."""

import json
import socket
import subprocess
import sys
import threading
import time

import pytest
from browser import chromium, needs_browser, outside, pixels, watched_page
from reader_files import make_small_study

pytest.importorskip("fastapi", reason="FastAPI is not installed, the readers' page is not tested")
from fastapi import FastAPI, Response  # noqa: E402
from fastapi.responses import FileResponse  # noqa: E402

from common.files import ROOT
from demo.reader_study.access import reader_codes  # noqa: E402
from demo.reader_study.routes import readers_app  # noqa: E402
from demo.server.app_factory import viewer_files  # noqa: E402
from evaluation.readers.study_folder import read_answers, read_study  # noqa: E402

pytestmark = [needs_browser, pytest.mark.slow]


@pytest.fixture
def served(tmp_path):
    """A study of three volumes for one reader, and the address of its page."""
    import uvicorn

    files = viewer_files()
    make_small_study(tmp_path / "study", readers=1, cases=3, repeat_share=0.0)
    app = FastAPI()
    app.mount("/readers", readers_app(tmp_path / "study"))

    @app.get("/viewer/{name}")
    def viewer(name: str) -> Response:
        return FileResponse(files[name]) if name in files else Response(status_code=404)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield tmp_path / "study", f"http://127.0.0.1:{port}/readers/"
    server.should_exit = True
    thread.join(10)


class Desk:
    """A reader before the page."""

    def __init__(self, page, address: str):
        self.page = page
        page.goto(address)

    def log_in(self, code: str) -> None:
        self.page.locator("#code:focus").wait_for()
        self.page.keyboard.type(code)
        self.page.keyboard.press("Enter")

    def sees(self, place: str) -> None:
        """Waits for a reading whose volume is drawn and whose questions may be answered."""
        self.page.locator("#place", has_text=place).wait_for()
        self.page.locator("#questions fieldset:not(:disabled)").first.wait_for()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def stored(self) -> None:
        self.page.locator("#saved", has_text="Stored at").wait_for()

    def chosen(self) -> list[str]:
        return [each.get_attribute("value") for each in self.page.locator("#questions input:checked").all()]

    def check(self) -> None:
        """Holds Enter down, which repeats it: it opens the review and does not go on to the next volume."""
        self.hold("Enter")
        self.page.locator("#review").wait_for(state="visible")
        assert self.page.locator("#next").is_enabled()

    def hold(self, key: str, times: int = 3) -> None:
        for _ in range(times):
            self.page.keyboard.down(key)
        self.page.keyboard.up(key)


def test_a_reader_reads_closes_resumes_finishes_and_is_analysed(served):
    study, address = served
    code = reader_codes(study / "answers" / "access_codes.txt", ["reader_01"])["reader_01"]
    with chromium() as browser:
        with watched_page(browser, (1280, 800)) as first:
            reads_one_and_begins_the_second(Desk(first, address), code)
        with watched_page(browser, (1280, 800), color_scheme="dark") as second:
            resumes_and_finishes(Desk(second, address), code)

    opened = read_study(study)
    assert outside(first) == outside(second) == []
    assert not any(item["item"] in url for url in first.asked + second.asked for item in opened.about["items"])
    # The browser's own notes of refusals and of the connection that was cut are all it complains of.
    expected = ("401", "409", "ERR_FAILED")
    assert [text for text in first.wrong + second.wrong if not any(word in text for word in expected)] == []

    answers = read_answers(opened)
    assert answers["realism"].tolist() == [2.0, 3.0, 1.0] and answers["origin"].dropna().tolist() == [1.0, 2.0]
    analyse = [sys.executable, str(ROOT / "evaluation" / "reader_study.py"), "action=analyse", "draws=100"]
    analysed = subprocess.run([*analyse, f"study={study}"], capture_output=True, text=True, cwd=study.parent)
    assert analysed.returncode == 0, analysed.stderr
    result = json.loads((study.parent / "outputs" / "reader_study_analysis" / "latest" / "analysis.json").read_text())
    assert result["first_readings"] == 3 and result["missing_readings"] == 0
    assert sum(map(sum, result["questions"]["realism"]["distribution"].values())) == 3


def reads_one_and_begins_the_second(desk: Desk, code: str) -> None:
    desk.log_in("ABCD-EFGH-JKMN")
    desk.page.locator("#login-message", has_text="not known").wait_for()
    desk.page.locator("#code").fill("")
    desk.page.locator("#code").focus()
    desk.log_in(code.lower())
    desk.sees("1 of 3")
    screen = pixels(desk.page, desk.page.locator("#viewer").bounding_box())
    pictures = screen[screen.shape[0] // 5 :]
    assert (pictures > 200).mean() > 0.05  # a bright block on darker air is drawn, in the lung window
    assert desk.page.locator("#viewer", has_text="not for diagnosis").count() == 1
    desk.hold("1")  # answers one question
    assert desk.chosen() == ["1"]
    desk.press("1", "5")
    desk.stored()
    desk.check()
    assert desk.page.locator("#given dd").all_inner_texts() == ["1", "real", "5"]
    desk.press("Escape")  # back, to change the first answer of this volume
    desk.page.locator("#questions fieldset").nth(0).locator("input").nth(3).focus()
    desk.press("2")
    desk.check()
    desk.page.locator("#given dd", has_text="2").wait_for()
    cannot_go_on_or_log_out(desk)
    desk.hold("Enter")

    desk.sees("2 of 3")
    assert desk.page.locator("#review").is_hidden()
    assert desk.chosen() == [] and desk.page.locator("#viewer canvas").count() > 0
    desk.page.route("**/api/answer", lambda route: route.abort())  # the connection is lost and comes back
    desk.press("3")
    desk.page.locator("#saved", has_text="Not stored yet").wait_for()
    desk.page.unroute("**/api/answer")
    desk.stored()


def cannot_go_on_or_log_out(desk: Desk) -> None:
    """The server refuses the next volume and is then out of reach: the page says so and stays as it is."""
    desk.page.route("**/api/next", lambda route: route.fulfill(status=409, json={"detail": "finished elsewhere"}))
    for path in ("reading", "logout"):
        desk.page.route(f"**/api/{path}", lambda route: route.abort())
    desk.press("Enter")
    desk.page.locator("#saved", has_text="No connection").wait_for()
    assert desk.page.locator("#next").is_enabled()
    desk.page.locator("#leave").click()
    desk.page.locator("#saved", has_text="Logging out failed").wait_for()
    assert desk.page.locator("#study").is_visible()
    for path in ("next", "reading", "logout"):
        desk.page.unroute(f"**/api/{path}")
    desk.page.locator("#next").focus()


def resumes_and_finishes(desk: Desk, code: str) -> None:
    desk.log_in(code)
    desk.sees("2 of 3")
    assert desk.chosen() == ["3"]
    desk.page.reload()  # the session outlives a reload
    desk.sees("2 of 3")
    desk.check()
    assert "2 questions have no answer" in desk.page.inner_text("#lacking")
    desk.press("Enter")
    desk.sees("3 of 3")
    desk.press("1", "2", "1")
    desk.check()
    assert desk.page.inner_text("#next") == "Finish"
    desk.press("Enter")
    desk.page.locator("#done", has_text="All 3 volumes are read").wait_for()
