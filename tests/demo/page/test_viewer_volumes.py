"""Choosing volumes in a real browser: quick choices, files that are gone, overlays of generated volumes only."""

import numpy as np
import pytest
from browser import needs_browser
from opened_viewer import BODY, TRUE, settle, tile

pytestmark = [needs_browser, pytest.mark.slow]

SAMPLES = {"samples": ["/sample1", "/sample2"], "truthUrl": "/truth"}
NAMES = ["Generated, mean", "Sample 1", "Sample 2", "True CT"]
HU = dict(zip(NAMES, [BODY, BODY + 10, BODY + 20, TRUE], strict=True))  # at the centre
MARK = "synthetic, not for diagnosis"
PANELS = """() => [...document.querySelectorAll(".xv-panel")].map((panel) => [
  panel.querySelector(".xv-name").textContent,
  [...panel.querySelectorAll(".xv-synthetic")].map((mark) => mark.textContent),
])"""


def select(page, number: int):
    """The choice of the first panel or of the one beside it."""
    return page.locator(".xv-choice").nth(number)


def alone(page) -> None:
    page.evaluate("viewer.setCompared(null)")
    page.wait_for_function("() => viewer.state().compared === null")


def check_beside(page, name: str) -> None:
    """Title, marks, reading and choice of the second panel name the volume that it shows."""
    assert page.evaluate(PANELS)[1] == [name, [] if name == "True CT" else [MARK] * 4]
    assert page.locator(".xv-truth").inner_text() == f"{name} {HU[name]} HU"
    assert select(page, 1).locator("option:checked").inner_text() == name
    assert page.evaluate("viewer.state().compared") == NAMES.index(name)


def test_the_last_of_quick_choices_is_shown_under_its_name(shown):
    page = shown(**SAMPLES)
    errors = len(page.wrong)
    alone(page)
    page.locator(".xv-desk").focus()
    select(page, 1).focus()
    for _ in range(4):  # opening the first takes longer than the keys
        page.keyboard.press("ArrowDown")
    page.wait_for_function("() => viewer.state().compared === 3")
    check_beside(page, "True CT")
    alone(page)
    page.evaluate("Promise.all([3, 0, 2].map((index) => viewer.setCompared(index)))")
    check_beside(page, "Sample 2")
    assert len(page.wrong) == errors


@pytest.mark.parametrize("then", [None, 3])
def test_a_choice_while_a_panel_opens(shown, then):
    page = shown(**SAMPLES)
    errors = len(page.wrong)
    alone(page)
    found = page.evaluate(
        """async (then) => {
          const first = viewer.setCompared(1), panels = () => document.querySelectorAll(".xv-panel");
          while (panels().length < 2) await new Promise((done) => setTimeout(done));
          const { compared } = viewer.state(), marks = panels()[1].querySelectorAll(".xv-synthetic").length;
          const last = viewer.setCompared(then);
          viewer.setTool("pan"); viewer.setLayout("axial");
          document.querySelector("button[data-name=bones]").click();
          await Promise.all([first, last]);
          return [compared, marks, panels().length];
        }""",
        then,
    )
    assert found == [None, 4, 1 if then is None else 2]  # marked before its first picture
    if then is not None:
        check_beside(page, NAMES[then])
    settle(page)
    assert len(page.wrong) == errors


def test_a_viewer_that_closes_while_a_panel_opens_says_nothing(shown):
    page = shown(**SAMPLES, banner="closes")
    page.evaluate(
        """async () => {
          await viewer.setCompared(null);
          const opening = viewer.setCompared(1);
          while (document.querySelectorAll(".xv-panel").length < 2) await new Promise((done) => setTimeout(done));
          viewer.close();
          await opening;
        }"""
    )
    assert page.locator(".xv").count() == 0 and page.wrong == []


@pytest.mark.parametrize(("number", "key", "name"), [(0, "shown", "Sample 1"), (1, "compared", "Sample 2")])
def test_a_file_that_is_gone_leaves_the_volume_and_says_so(shown, number, key, name):
    page = shown(**SAMPLES, banner="gone")  # no sample is loaded yet
    alert, index = page.get_by_role("alert"), NAMES.index(name)
    before = page.evaluate(PANELS), page.locator(".xv-values").inner_text(), page.evaluate("viewer.state()")
    choice = select(page, number).locator("option:checked").inner_text()
    page.route(f"**/sample{index}", lambda route: route.fulfill(status=404))
    set_it = ["setVolume", "setCompared"][number]
    page.evaluate(f"Promise.all([viewer.{set_it}({index}), viewer.{set_it}({before[2][key]})])")
    assert alert.inner_text() == ""  # another was chosen meanwhile
    select(page, number).select_option(name)
    page.wait_for_function("() => document.querySelector('[role=alert]').textContent")
    assert f"{name} cannot be shown" in alert.inner_text() and "404" in alert.inner_text()
    assert before == (
        page.evaluate(PANELS),
        page.locator(".xv-values").inner_text(),
        page.evaluate("viewer.state()"),
    )
    assert select(page, number).locator("option:checked").inner_text() == choice
    assert all("Failed to load resource" in line for line in page.wrong)  # no uncaught error
    page.unroute(f"**/sample{index}")
    select(page, number).select_option(name)  # asks again
    page.wait_for_function("([key, index]) => viewer.state()[key] === index", arg=[key, index])
    assert alert.inner_text() == "" and page.evaluate(PANELS)[number] == [name, [MARK] * 4]


@pytest.mark.parametrize("fails", [False, True])
def test_a_slow_result_does_not_replace_a_newer_one(shown, fails):
    page = shown(banner="results")
    found = page.evaluate(
        """async (fails) => {
          document.body.insertAdjacentHTML("beforeend", '<p id="xc-say"></p><div id="xc-result"></div>');
          const { show } = await import("/viewer/page.js"), ask = window.fetch;
          let release;
          const held = new Promise((done) => { release = done; });
          window.fetch = async (url, options) => (
            url === "/slow" ? (await held, ask(fails ? "/none" : "/volume", options)) : ask(url, options)
          );
          const result = (volume, mark) => (
            { urls: { "volume.nii.gz": volume }, window: [-1000, 1000], mark, warnings: [], seconds: 1 }
          );
          const slow = show(result("/slow", "older"));
          await show(result("/volume", "newer"));
          const { viewer } = window.xray2ct;
          release();
          await slow;
          window.fetch = ask;
          const marks = [...document.querySelectorAll("#xc-result .xv-synthetic")].map((mark) => mark.textContent);
          return [window.xray2ct.viewer === viewer, marks, document.querySelectorAll("#xc-result .xc-error").length];
        }""",
        fails,
    )
    assert found == [True, ["newer"] * 4, 0]
    assert all("Failed to load resource" in line for line in page.wrong)


def test_overlays_are_off_over_a_true_ct(shown):
    page = shown(**SAMPLES, overlays={"spread": "/spread", "evidence": "/evidence"})
    spread, legend = page.get_by_role("button", name="Spread"), page.locator(".xv-legend:visible")
    page.evaluate("viewer.setWindow(20, 2000); viewer.setCrosshair(false)")
    with_grey = {}
    for index in (0, 3):
        page.evaluate("(index) => viewer.setVolume(index)", index)
        with_grey[index] = tile(page, "coronal")
    page.evaluate("viewer.setVolume(1)")
    spread.click()
    assert legend.count() == 1 and "120 HU" in page.locator(".xv-spread").inner_text()
    page.evaluate("viewer.setVolume(3)")
    assert page.evaluate(PANELS)[0] == ["True CT", []]
    assert legend.count() == 0 and page.locator(".xv-spread").count() == 0
    assert np.abs(tile(page, "coronal") - with_grey[3]).mean() < 1
    assert spread.is_disabled() and page.get_by_role("button", name="Evidence").is_disabled()
    assert spread.get_attribute("aria-pressed") == "false" and page.locator("input[type=range]").is_disabled()
    page.locator(".xv-desk").focus()
    page.keyboard.press("e")
    assert legend.count() == 0 and page.locator(".xv-evidence").count() == 0
    page.evaluate("viewer.setVolume(0)")  # as before
    assert spread.is_enabled() and spread.get_attribute("aria-pressed") == "true"
    assert legend.count() == 1 and "120 HU" in page.locator(".xv-spread").inner_text()
    assert np.abs(tile(page, "coronal") - with_grey[0]).mean() > 5


def test_the_window_of_the_model_limits_generated_volumes_only(shown):
    page = shown(**SAMPLES, window=[-200, 25])
    readings = {}
    for index, name in enumerate(NAMES):
        page.evaluate("(index) => viewer.setVolume(index)", index)
        readings[name] = page.locator(".xv-hu").inner_text()
    assert readings == dict(zip(NAMES, ["20 HU", "≥ 25 HU", "≥ 25 HU", f"{TRUE} HU"], strict=True))
