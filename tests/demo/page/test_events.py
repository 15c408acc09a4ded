"""Events of the page without a browser: only the newest check is shown, and a generation answers at once."""

from types import SimpleNamespace

import gradio as gr
import pytest
from demo_parts import save_film, small_service

from common.errors import UserError
from demo.page.layout import _Events, build_page
from demo.service.examples import EXAMPLES

PAGE, OTHER = SimpleNamespace(session_hash="page"), SimpleNamespace(session_hash="other")
WAITING = {"picked", "uploaded", "seen"}  # events that a page may send again before the first has ended


class Looking:
    """A service whose checks refuse every X-ray, and during the first of which `meanwhile` happens."""

    def __init__(self, meanwhile):
        self.meanwhile = [meanwhile]

    def look(self, xray, *options):
        while self.meanwhile:
            self.meanwhile.pop()()
        raise UserError(f"{xray.name} refused")


@pytest.mark.parametrize("newer", ["seen", "picked", "uploaded", "cleared"])
def test_a_check_changes_nothing_after_a_newer_event(newer):
    def look(page=PAGE):
        return events.seen("first.png", None, "", "", None, page)

    options = {"seen": ("second.png", None, "", "", None), "picked": (next(iter(EXAMPLES)),)}.get(newer, ())
    events = _Events(Looking(lambda: getattr(events, newer)(*options, PAGE)))
    assert look() == gr.skip()
    assert "first.png refused" in look()  # nothing newer
    events.service.meanwhile = [lambda: look(OTHER)]
    assert "first.png refused" in look()  # another page is no reason
    events.left(PAGE)
    events.left(OTHER)
    assert not events.newest


def test_no_event_of_a_source_is_dropped(tmp_path):
    service = small_service(tmp_path / "run")
    try:
        modes = {(fn.name, fn.trigger_mode) for fn in build_page(service).fns.values() if fn.name in WAITING}
    finally:
        service.close()
    assert modes == {(name, "always_last") for name in WAITING}


def test_a_generation_says_at_once_that_it_checks_the_files(tmp_path):
    service = SimpleNamespace(generate=lambda *given: iter(()))  # not reached by the first answer
    given = (str(save_film(tmp_path / "x.png")), None, None, None, False, "", 1, 1.0, 0, 1, "", "")
    answers = _Events(service).generate(*given, PAGE)
    status, result, make, stop = next(answers)
    assert "Checking the files" in status["value"] and status["visible"] and result is None
    assert not make["interactive"] and stop["interactive"]
    answers.close()
