"""The viewer in a real browser: orientation by pixels, crosshair, windows, overlay, a second volume."""

import numpy as np
import pytest
from browser import needs_browser, outside
from opened_viewer import BODY, BRIGHT, MIDDLE_MM, SPACING, TRUE, brightest, choose, settle, tile

pytestmark = [needs_browser, pytest.mark.slow]


def test_radiological_convention_by_pixels(shown):
    page = shown()
    page.evaluate("(mm) => { viewer.moveTo(mm); viewer.setWindow(500, 900) }", list(MIDDLE_MM))
    choose(page, "Bones")
    settle(page)
    for plane in ("axial", "coronal", "sagittal", "render"):
        down, across = brightest(tile(page, plane))
        # right, and in sagittals the front, on the left; the front, and elsewhere superior, on top
        assert down < 0.47 and across < 0.47, f"{plane}: {down:.2f} down, {across:.2f} across"


@pytest.mark.parametrize(
    ("window", "width", "rendering"), [([-1000, 1000], 1500, "lungs"), ([-200, 500], 400, "bones")]
)
def test_it_opens_on_the_lungs_if_the_model_has_them(shown, window, width, rendering):
    state = shown(window=window).evaluate("viewer.state()")
    assert (state["width"], state["rendering"]) == (width, rendering)


def test_marks_are_on_their_sides(shown):
    page = shown()
    sides = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
    for plane, letters in sides.items():
        box = page.locator(f".xv-tile-{plane}").bounding_box()
        places = []
        for letter in letters:
            mark = page.locator(f".xv-tile-{plane} .xv-mark", has_text=letter).bounding_box()
            places.append(
                (
                    (mark["x"] + mark["width"] / 2 - box["x"]) / box["width"],
                    (mark["y"] + mark["height"] / 2 - box["y"]) / box["height"],
                )
            )
        left, right, top, bottom = places
        assert left[0] < 0.1 and right[0] > 0.9 and top[1] < 0.1 and bottom[1] > 0.9


def test_every_view_is_marked_and_layouts_change(shown):
    page = shown()
    for layout, count in (("multiplanar", 4), ("axial", 1), ("coronal", 1), ("sagittal", 1), ("render", 1)):
        page.evaluate("(name) => viewer.setLayout(name)", layout)
        marks = page.locator(".xv-synthetic:visible")
        assert marks.all_inner_texts() == ["synthetic, not for diagnosis"] * count


def test_the_crosshair_reads_hu_and_is_linked(shown):
    page = shown()
    page.evaluate("(mm) => viewer.moveTo(mm)", list(MIDDLE_MM))
    found = page.evaluate("viewer.crosshair()")
    assert found["hu"] == BRIGHT
    assert np.allclose(found["mm"], MIDDLE_MM, atol=max(SPACING) / 2 + 0.1)
    assert f"{BRIGHT} HU" in page.locator(".xv-hu").inner_text()
    before = page.locator(".xv-tile-axial .xv-slice").inner_text()
    box = page.locator(".xv-tile-coronal").bounding_box()
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.7 * box["height"])  # in the coronal: lower
    settle(page)
    assert page.locator(".xv-tile-axial .xv-slice").inner_text() != before  # the axial slice follows
    assert page.evaluate("viewer.crosshair().hu") == BODY
    assert page.evaluate("viewer.crosshair().mm")[2] < 0


def test_keys_move_the_crosshair_and_choose_windows(shown):
    page = shown()
    page.locator(".xv-desk").focus()
    start = np.array(page.evaluate("viewer.crosshair().mm"))
    steps = {"ArrowLeft": (3, 0, 0), "ArrowUp": (0, 0, 4), "PageUp": (0, 5, 0)}  # right, front, up in mm
    for key, step in steps.items():
        page.keyboard.press(key)
        moved = np.array(page.evaluate("viewer.crosshair().mm"))
        assert np.allclose(moved - start, step, atol=0.01), key
        start = moved
    page.keyboard.press("3")
    assert page.evaluate("viewer.state()")["width"] == 2000
    page.keyboard.press("s")
    assert page.evaluate("viewer.state()")["layout"] == "sagittal"
    page.keyboard.press("?")
    assert page.locator(".xv-help").is_visible()
    page.keyboard.press("Escape")
    page.wait_for_selector(".xv-help", state="detached")


def test_the_window_changes_the_picture(shown):
    page = shown()
    page.evaluate("viewer.setLayout('axial'); viewer.moveTo([0, 0, 0])")
    grey = {}
    for name, level, width in (("lung", -600, 1500), ("mediastinum", 40, 400), ("bone", 500, 2000)):
        page.locator(".xv-toolbar button", has_text=name.capitalize()).first.click()
        settle(page)
        picture = tile(page, "axial")
        middle = picture[int(0.55 * picture.shape[0]) : int(0.6 * picture.shape[0]), int(0.6 * picture.shape[1])]
        grey[name] = float(np.median(middle))
        expected = 255 * np.clip((BODY - level) / width + 0.5, 0, 1)
        assert abs(grey[name] - expected) < 6, name
    assert len({round(value) for value in grey.values()}) == 3
    page.locator("input[aria-label*=level]").fill("2000")
    page.locator("input[aria-label*=level]").press("Enter")
    settle(page)
    assert np.median(tile(page, "axial")) < 5


def test_no_foreign_request_and_an_error_for_a_missing_file(shown):
    page = shown()
    assert outside(page) == [] and page.wrong == []
    failed = page.evaluate("window.mount({ volumeUrl: '/none' }).then(() => '', (error) => error.message)")
    assert "404" in failed
    assert page.locator(".xv").count() == 1  # only the earlier viewer


def test_windows_outside_the_model_are_disabled(shown):
    page = shown(window=[-200, 500])
    states = {
        name: page.locator(".xv-toolbar button", has_text=name).first.is_enabled()
        for name in ("Lung", "Mediastinum", "Bone", "PE")
    }
    assert states == {"Lung": False, "Mediastinum": True, "Bone": False, "PE": True}
    page.evaluate("viewer.setPreset('lung')")
    assert page.evaluate("viewer.state().width") != 1500
    page.evaluate("(mm) => viewer.moveTo(mm)", list(MIDDLE_MM))
    assert page.locator(".xv-hu").inner_text() == "≥ 500 HU"  # the upper end of the window


def test_a_second_volume_follows_and_an_overlay_colours(shown):
    page = shown(truthUrl="/truth", overlays={"spread": "/spread"}, nominal=True, banner="the anatomy is a drawing")
    assert page.locator(".xv-banner").inner_text() == "the anatomy is a drawing"
    assert page.locator(".xv-panel").count() == 2
    assert page.locator(".xv-panel").nth(1).locator(".xv-synthetic").count() == 0  # a true CT is not synthetic
    page.evaluate("(mm) => viewer.moveTo(mm)", list(MIDDLE_MM))
    assert "(nominal)" in page.locator(".xv-place").inner_text()
    assert f"{TRUE} HU" in page.locator(".xv-truth").inner_text()
    places = page.locator(".xv-tile-axial .xv-slice").all_inner_texts()
    assert places[0] == places[1]
    before = tile(page, "coronal")
    page.locator(".xv-toolbar button", has_text="Spread").click()
    settle(page)
    assert "120 HU" in page.locator(".xv-spread").inner_text()
    assert np.abs(tile(page, "coronal") - before).mean() > 5
