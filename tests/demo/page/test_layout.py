"""The page on screens of four widths: nothing overflows, all controls are reachable, axe finds nothing serious."""

import pytest
from browser import chromium, generate, needs_browser, upload, watched_page
from PIL import Image

from common.files import ROOT

pytest.importorskip("gradio", reason="gradio is not installed, the page is not tested")
from demo_parts import save_film, served, small_service  # noqa: E402

pytestmark = [needs_browser, pytest.mark.slow]
AXE = ROOT / "demo" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (390, 768, 1024, 1440)
ONE_COLUMN = 1000
OUTSIDE = """(width) => [
  ...document.querySelectorAll("button, input, select, a[href], .xv-tile, .xc-film"),
].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.width > 1 && one.checkVisibility() && (box.left < -1 || box.right > width + 1);
}).map((one) => one.outerHTML.slice(0, 100))"""
COVERED = """() => [...document.querySelectorAll(".xv-tile")].filter((tile) => {
  const [mark, letter] = [".xv-synthetic", ".xv-bottom"].map((name) => tile.querySelector(name));
  if (!mark || !letter || !tile.checkVisibility()) return false;
  const range = document.createRange();
  range.selectNodeContents(mark);
  const [a, b] = [range.getBoundingClientRect(), letter.getBoundingClientRect()];
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}).map((tile) => tile.className)"""
TOP = "(name) => document.querySelector(name).getBoundingClientRect().top"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a touch screen with a result of two samples."""
    from demo.server.app_factory import build_app

    folder = tmp_path_factory.mktemp("run")
    service = small_service(folder / "run")
    screen = {"size": (390, 844), "has_touch": True}
    with served(build_app(service)) as address, chromium() as browser, watched_page(browser, **screen) as page:
        page.set_default_timeout(180_000)  # the first result loads the networks
        page.goto(address)
        page.wait_for_selector("#xc-generate")
        upload(page, save_film(folder / "film.png"))
        page.wait_for_selector(".xc-seen img")
        generate(page, samples=2)
        page.wait_for_selector(".xv[data-ready]")
        yield page
    service.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_is_reachable(page, tmp_path, width):
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_timeout(500)  # the canvases follow
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE, width) == []
    viewer, side = page.evaluate(TOP, ".xv"), page.evaluate(TOP, "#xc-side")
    assert (viewer < side) == (width < ONE_COLUMN)  # in one column the result comes first
    for button in page.locator(".xv-toolbar :is(button, select, input):enabled").all():
        button.focus()
        box = button.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 844, button.inner_text()
    assert page.evaluate(COVERED) == []  # the letter of orientation and the mark
    marks = page.locator(".xv-synthetic:visible")
    assert marks.count() == 4
    page.locator(".xv-tile-axial").scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert Image.open(tmp_path / "page.png").convert("L").getextrema()[1] > 200


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed (make test-web), accessibility is not tested")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(page, theme):
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", theme == "dark")
    page.wait_for_timeout(1000)  # colours change gradually
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    lines = [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")
    ]
    assert lines == []


def test_the_first_tap_reaches_the_result(page):
    assert page.evaluate("document.activeElement.closest('.xv') !== null")
    assert page.wrong == []
