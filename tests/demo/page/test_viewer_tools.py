"""Tools of the viewer in a real browser: evidence, distances, regions, touch, zoom, slabs, cine, samples."""

from io import BytesIO

import numpy as np
import pytest
from browser import needs_browser
from opened_viewer import BODY, BRIGHT, MIDDLE_MM, SHAPE, SPACING, brightest, choose, drag, settle, tile
from PIL import Image

pytestmark = [needs_browser, pytest.mark.slow]


def colour(page, plane: str, down: float, across: float) -> np.ndarray:
    """RGB of a place of a plane, in shares of its height and width."""
    settle(page)
    box = page.locator(f".xv-tile-{plane}").first.bounding_box()
    shot = page.screenshot(clip=box, style=".xv-tile > :is(span, svg), .xv-legend { visibility: hidden }")
    rgb = np.asarray(Image.open(BytesIO(shot)).convert("RGB"), dtype=float)
    row, column = int(down * rgb.shape[0]), int(across * rgb.shape[1])
    return rgb[row - 2 : row + 3, column - 2 : column + 3].mean(axis=(0, 1))


def test_evidence_colours_what_was_determined_and_what_was_invented(shown):
    page = shown(overlays={"spread": "/spread", "evidence": "/evidence"})
    button, legend = page.get_by_role("button", name="Evidence"), page.locator(".xv-legend:visible")
    assert legend.count() == 0 and button.get_attribute("aria-pressed") == "false"
    page.evaluate("viewer.setCrosshair(false); viewer.setWindow(20, 2000)")
    grey = colour(page, "coronal", 0.3, 0.35)
    assert np.ptp(grey) < 6
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    ends = ["0 %: samples vary as in training", "100 %: agree, not checked"]
    assert legend.inner_text().split("\n") == ["Evidence", *ends]
    assert legend.get_by_role("img").get_attribute("aria-label") == f"Evidence: colours from {' to '.join(ends)}"
    above, below = colour(page, "coronal", 0.3, 0.35), colour(page, "coronal", 0.7, 0.35)
    assert above[2] > above[0] + 40 and below[0] > below[2] + 40  # blue, orange
    front = colour(page, "sagittal", 0.5, 0.03 + 0.5 * (1 - page_share(page)))
    assert np.ptp(front) < 6  # no colour
    for mm, text in (([0, 0, 40], "Evidence 95 %"), ([0, 0, -40], "Evidence 5 %"), ([0, 85, 0], "do not differ")):
        page.evaluate("(mm) => viewer.moveTo(mm)", mm)
        assert text in page.locator(".xv-evidence").inner_text()
    page.locator("input[type=range]").fill("0.2")
    assert np.ptp(colour(page, "coronal", 0.3, 0.35)) < np.ptp(above) / 2
    page.locator(".xv-desk").focus()
    page.keyboard.press("o")  # one at a time
    assert page.locator(".xv-spread").count() == 1 and page.locator(".xv-evidence").count() == 0
    page.keyboard.press("e")
    assert "Evidence" in legend.inner_text() and legend.count() == 1
    page.keyboard.press("e")
    assert legend.count() == 0 and np.ptp(colour(page, "coronal", 0.3, 0.35)) < 6


def page_share(page) -> float:
    """Share of the width of the sagittal that the volume fills."""
    picture = tile(page, "sagittal")
    columns = np.flatnonzero((picture > 40).any(axis=0))
    return (columns[-1] - columns[0] + 1) / picture.shape[1]


def test_evidence_fits_a_phone(shown):
    page = shown(overlays={"spread": "/spread", "evidence": "/evidence"})
    page.set_viewport_size({"width": 375, "height": 740})
    try:
        page.get_by_role("button", name="Evidence").tap()
        settle(page)
        box, stage = page.locator(".xv-legend:visible").bounding_box(), page.locator(".xv-stage").bounding_box()
        assert box["x"] >= stage["x"] and box["x"] + box["width"] <= stage["x"] + stage["width"]
        assert (
            page.locator(".xv-legend:visible canvas").bounding_box()["width"] > 30 and box["height"] < 24
        )  # one line
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
    finally:
        page.set_viewport_size({"width": 900, "height": 640})


def test_without_samples_enough_there_is_no_evidence_control(shown):
    page = shown(overlays={"spread": "/spread"})
    errors = len(page.wrong)
    assert page.get_by_role("button", name="Evidence").count() == 0
    page.locator(".xv-desk").focus()
    page.keyboard.press("e")
    assert page.locator(".xv-legend:visible").count() == 0 and len(page.wrong) == errors


def test_distance_and_region_are_measured(shown):
    page = shown(samples=["/sample1", "/sample2"], nominal=True)
    page.evaluate(
        "(mm) => { viewer.moveTo(mm); viewer.setWindow(500, 900); viewer.setCrosshair(false) }", list(MIDDLE_MM)
    )
    for plane in ("axial", "coronal", "sagittal"):
        down, across = brightest(tile(page, plane))
        choose(page, "Region")
        drag(page, plane, (across - 0.02, down - 0.02), (across + 0.02, down + 0.02))
        assert f"Region: {BRIGHT} ± 0 HU" in page.locator(".xv-measured").inner_text(), plane
        assert page.locator(f".xv-tile-{plane} ellipse").count() == 1
    page.evaluate("viewer.moveTo([0, 0, 0]); viewer.setWindow(0, 200)")
    assert page.locator(".xv-regions ellipse").count() == 0  # they belong to their slices
    choose(page, "Distance")
    picture = tile(page, "axial")
    columns = np.flatnonzero((picture > 40).any(axis=0))  # the body fills the volume
    left, right = columns[0] / picture.shape[1], columns[-1] / picture.shape[1]
    drag(page, "axial", (left + 0.02, 0.5), (right - 0.02, 0.5))
    measured = page.locator(".xv-measured").inner_text()
    share = 1 - 0.04 / (right - left)
    assert abs(float(measured.split()[1]) - share * SHAPE[2] * SPACING[2]) < 4 and "(nominal size)" in measured
    choose(page, "Clear")
    assert page.locator(".xv-measured").inner_text() == ""


def test_one_finger_drags_and_two_zoom(shown):
    page = shown(samples=["/sample1", "/sample2"], nominal=True)
    touch = page.context.new_cdp_session(page)
    box = page.locator(".xv-tile-coronal").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x + dx, "y": y + dy, "id": number} for number, (dx, dy) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    choose(page, "Distance")
    for kind, *places in (("touchStart", (0, 0)), ("touchMove", (20, 0)), ("touchMove", (40, 0)), ("touchEnd",)):
        fingers(kind, *places)
    settle(page)
    assert "Distance" in page.locator(".xv-measured").inner_text()
    choose(page, "Crosshair")
    fingers("touchStart", (0, 0))
    fingers("touchStart", (0, 0), (40, 0))
    fingers("touchMove", (0, 0), (80, 0))
    fingers("touchEnd")
    assert page.evaluate("viewer.state().view[3]") == 2
    fingers("touchStart", (0, 30))
    fingers("touchEnd")
    settle(page)
    assert page.evaluate("viewer.crosshair().mm")[2] < 0


def test_windows_zoom_slabs_and_cine(shown):
    page = shown(samples=["/sample1", "/sample2"], nominal=True)
    page.evaluate("viewer.setWindow(500, 900)")
    assert tile(page, "axial").max() < 160  # the slice does not meet the block
    page.evaluate("viewer.setSlab('maximum', 1000)")
    down, across = brightest(tile(page, "axial"))
    assert down < 0.47 and across < 0.47 and "maximum" in page.locator(".xv-tile-axial .xv-own").inner_text()
    page.evaluate("viewer.reset(); viewer.setSeparate(true)")
    box = page.locator(".xv-tile-sagittal").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.evaluate("viewer.setWindow(2000, 900)")
    share = {plane: (tile(page, plane) > 60).mean() for plane in ("axial", "coronal", "sagittal")}
    assert share["sagittal"] < 0.05 < 0.1 < share["coronal"]
    page.evaluate("viewer.reset(); viewer.zoom(1.5)")
    for plane in ("axial", "coronal"):  # zoomed together
        assert (tile(page, plane) > 60).mean() > 1.3 * share[plane]
    choose(page, "Pan")
    drag(page, "axial", (0.5, 0.5), (0.6, 0.5))
    assert page.evaluate("viewer.state().view[0]") != 0
    before = page.locator(".xv-tile-axial .xv-slice").inner_text()
    page.evaluate("viewer.play(true)")
    page.wait_for_function(
        "(before) => document.querySelector('.xv-tile-axial .xv-slice').textContent !== before", arg=before
    )
    page.evaluate("viewer.play(false)")
    page.locator(".xv-tile-axial").dblclick()
    assert page.evaluate("viewer.state().layout") == "axial"


def test_samples_are_shown_one_by_one_and_beside_another(shown):
    page = shown(samples=["/sample1", "/sample2"], nominal=True)
    found = []
    page.locator(".xv-desk").focus()
    for _ in range(3):
        page.keyboard.press("n")
        page.wait_for_function("(count) => viewer.state().shown === count", arg=(len(found) + 1) % 3)
        settle(page)
        found.append(page.evaluate("viewer.crosshair().hu"))
    assert found == [BODY + 10, BODY + 20, BODY]
    page.locator(".xv-choice").nth(1).select_option("Sample 2")
    page.wait_for_selector(".xv-truth")
    assert f"Sample 2 {BODY + 20} HU" in page.locator(".xv-truth").inner_text()
    assert page.locator(".xv-name").all_inner_texts() == ["Generated, mean", "Sample 2"]
    assert page.locator(".xv-synthetic:visible").count() == 8
    page.locator(".xv-choice").nth(1).select_option("alone")
    page.wait_for_function("() => document.querySelectorAll('.xv-panel').length === 1")


@pytest.mark.parametrize("kind", ["maximum", "mean", "minimum"])
def test_a_slab_is_a_moving_extreme_or_mean(shown, kind):
    page, values = shown(), np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7))
    call = """([values, axis, count, kind]) => import("/viewer/slab.js").then(
        ({ slab }) => Array.from(slab(Float32Array.from(values), [7, 6, 5], axis, count, kind)))"""
    reduce = {"maximum": np.max, "mean": np.mean, "minimum": np.min}[kind]
    for axis, count in ((0, 3), (1, 4), (2, 100)):
        lines = np.moveaxis(values, 2 - axis, 0)
        low = [k - (count - 1) // 2 for k in range(len(lines))]
        expected = [reduce(lines[max(0, start) : start + count], axis=0) for start in low]
        found = np.array(page.evaluate(call, [values.ravel().tolist(), axis, count, kind])).reshape(values.shape)
        np.testing.assert_allclose(np.moveaxis(found, 2 - axis, 0), expected, atol=1e-3)


@pytest.mark.parametrize("button", ["left", "right"])
def test_a_drag_of_the_window_ends_outside_of_the_views(shown, button):
    page = shown()
    choose(page, "Window" if button == "left" else "Crosshair")
    read = "(({ level, width }) => [level, width])(viewer.state())"
    start = page.evaluate(read)
    box = page.locator(".xv-tile-axial").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    page.mouse.move(x + 40, y - 20)
    inside = page.evaluate(read)
    page.mouse.move(x + 60, 10)  # over the toolbar: the drag goes on
    outside = page.evaluate(read)
    page.mouse.up(button=button)
    assert start != inside != outside != start
    for place in ((x, y), (x + 70, y + 30)):
        page.mouse.move(*place)
    assert page.evaluate(read) == outside
    page.locator(".xv-tile-axial").dblclick()  # the tile still hears of clicks
    assert page.evaluate("viewer.state().layout") == "axial"


def test_a_drag_whose_release_was_not_seen_ends(shown):
    page = shown()
    choose(page, "Window")
    canvas = "document.querySelector('.xv-tile-axial canvas')"
    page.evaluate(f"() => {{ {canvas}.setPointerCapture = () => {{}} }}")  # scripted events have no pointer
    move = f"""([kind, x, buttons]) => {canvas}.dispatchEvent(
        new PointerEvent(kind, {{ clientX: x, clientY: 300, button: 0, buttons, pointerId: 1, bubbles: true }}))"""
    widths = [page.evaluate("viewer.state().width")]
    for event in (["pointerdown", 100, 1], ["pointermove", 140, 1], ["pointermove", 180, 0], ["pointermove", 220, 1]):
        page.evaluate(move, event)
        widths.append(page.evaluate("viewer.state().width"))
    page.evaluate(f"() => {{ delete {canvas}.setPointerCapture }}")
    assert widths[0] == widths[1] != widths[2] == widths[3] == widths[4]
