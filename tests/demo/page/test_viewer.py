"""The viewer in a real browser: orientation by pixels, crosshair, windows, overlay, a second volume."""

from io import BytesIO

import numpy as np
import pytest
from browser import chromium, needs_browser, outside, pixels, served, watched_page
from PIL import Image

from dataset.io.nifti import write_nifti
from demo.server.app_factory import viewer_files

pytestmark = [needs_browser, pytest.mark.slow]
SHAPE, SPACING = (40, 36, 44), (4.0, 5.0, 3.0)
BLOCK = (slice(26, 36), slice(4, 12), slice(5, 15))  # superior, anterior, right
MIDDLE_MM = (28.5, 50.0, 44.0)  # of the block: right, front, up of the volume's centre
NAMES = ("volume", "truth", "spread", "evidence", "sample1", "sample2")
AIR, BODY, BRIGHT, TRUE = -1000, 20, 900, 300
PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<style>:root { color-scheme: light dark } body { margin: 0 } #root { position: absolute; inset: 0 }</style>
<div id="root"></div><script type="module">
import { mountViewer } from "/viewer/viewer.js";
window.mount = async (options) => {
  window.viewer = await mountViewer(document.getElementById("root"), { volumeUrl: "/volume", ...options });
};
</script>"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A function that opens the viewer with options; everything shares one browser."""
    folder = tmp_path_factory.mktemp("viewer")
    hu = np.full(SHAPE, BODY, np.float32)
    hu[BLOCK] = BRIGHT
    write_nifti(folder / "volume.nii.gz", hu, SPACING)
    write_nifti(folder / "truth.nii.gz", np.full(SHAPE, TRUE), SPACING)
    for number in (1, 2):
        write_nifti(folder / f"sample{number}.nii.gz", hu + 10 * number, SPACING)
    write_nifti(folder / "spread.nii.gz", np.full(SHAPE, 120), SPACING)
    percent = np.full(SHAPE, -1)
    percent[:, 4:], percent[20:, 4:] = 5, 95  # inferior, superior; without value in front
    write_nifti(folder / "evidence.nii.gz", percent, SPACING)
    files = {f"/viewer/{name}": path for name, path in viewer_files().items()}
    # without extension: the viewer detects the kind by content
    files |= {f"/{name}": folder / f"{name}.nii.gz" for name in NAMES}
    files["/"] = lambda: PAGE.encode()
    with served(files) as address, chromium() as browser, watched_page(browser, (900, 640), has_touch=True) as page:
        last = []

        def open_viewer(**options):
            if last == [options]:  # already open
                page.evaluate("viewer.reset()")
                settle(page)
                return page
            last[:] = [options]
            page.goto(address)
            page.wait_for_function("() => Boolean(window.mount)")
            page.evaluate("(options) => window.mount(options)", options)
            page.wait_for_selector(".xv[data-ready]")
            settle(page)
            return page

        yield open_viewer


def settle(page) -> None:
    """Waits two frames, until the picture is drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def tile(page, plane: str) -> np.ndarray:
    """The picture of a plane, 0 to 255, without the marks and labels over it."""
    settle(page)
    box = page.locator(f".xv-tile-{plane}").first.bounding_box()
    return pixels(page, box, style=".xv-tile > :is(span, svg) { visibility: hidden }")


def brightest(picture: np.ndarray, above: float = 160.0) -> tuple[float, float]:
    """Where the bright part lies: share of the height from the top, share of the width from the left."""
    rows, columns = np.nonzero(picture > above)
    assert len(rows) > 30
    return float(rows.mean() / picture.shape[0]), float(columns.mean() / picture.shape[1])


def choose(page, name: str) -> None:
    """Presses a button of the toolbar."""
    page.locator(".xv-toolbar").get_by_role("button", name=name, exact=True).click()


def drag(page, plane: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drags in a plane; places are shares of its width and height."""
    box = page.locator(f".xv-tile-{plane}").bounding_box()
    places = [start, tuple((a + b) / 2 for a, b in zip(start, end, strict=True)), end]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place)
    settle(page)
    page.mouse.up()
    settle(page)


def test_radiological_convention_by_pixels(shown):
    page = shown()
    page.evaluate("(mm) => { viewer.moveTo(mm); viewer.setWindow(500, 900) }", list(MIDDLE_MM))
    settle(page)
    for plane in ("axial", "coronal", "sagittal", "render"):
        down, across = brightest(tile(page, plane))
        # right, and in sagittals the front, on the left; the front, and elsewhere superior, on top
        assert down < 0.47 and across < 0.47, f"{plane}: {down:.2f} down, {across:.2f} across"


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
    assert legend.inner_text().split("\n") == ["Evidence", "0 % invented", "100 % determined"]
    assert legend.get_by_role("img").get_attribute("aria-label") == (
        "Evidence: colours from 0 % invented to 100 % determined"
    )
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
