"""Measurements in a real browser: whose they are, slabs of few slices, voxels that a CT did not scan."""

import numpy as np
import pytest
from browser import needs_browser
from opened_viewer import SHAPE, SPACING, TRUE, choose, drag, settle

from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.io.nifti import write_nifti

pytestmark = [needs_browser, pytest.mark.slow]

SAMPLES = {"samples": ["/sample1", "/sample2"], "truthUrl": "/truth"}
CORNERS = (0.45, 0.45), (0.55, 0.55)


def measured(page) -> str:
    return page.locator(".xv-measured").inner_text()


def ellipses(page) -> int:
    return page.locator(".xv-regions ellipse").count()


def drag_in(page, panel: int, plane: str, start, end) -> None:
    """Drags in a plane of a panel."""
    box = page.locator(".xv-panel").nth(panel).locator(f".xv-tile-{plane}").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=3)
    settle(page)
    page.mouse.up()
    settle(page)


def test_a_region_goes_with_its_volume_and_its_slab(shown):
    page = shown(**SAMPLES)
    choose(page, "Region")
    for change in ("viewer.setVolume(1)", "viewer.setSlab('maximum', 20)", "viewer.setSlab('maximum', 30)"):
        drag_in(page, 0, "axial", *CORNERS)
        assert "Region" in measured(page) and ellipses(page) == 1
        page.evaluate(change)
        assert measured(page) == "" and ellipses(page) == 0, change
    drag_in(page, 1, "axial", *CORNERS)
    assert f"Region: {TRUE} ± 0 HU" in measured(page)
    page.evaluate("viewer.setVolume(2)")  # the other panel
    page.evaluate("viewer.setSlab('maximum', 30)")  # no change
    assert f"Region: {TRUE} ± 0 HU" in measured(page) and ellipses(page) == 1
    page.evaluate("viewer.setCompared(null)")
    assert measured(page) == ""
    choose(page, "Distance")
    drag(page, "axial", *CORNERS)
    before = measured(page)
    page.evaluate("viewer.setVolume(0)")  # distances stay
    assert "Distance" in before and measured(page) == before
    page.evaluate("viewer.setCompared(3)")


@pytest.mark.parametrize(
    ("mm", "captions"),
    [(1, [4, 5, 3]), (10, [12, 10, 9]), (1000, [a * b for a, b in zip(SHAPE, SPACING, strict=True)])],
)
def test_the_caption_of_a_slab_is_what_it_shows(shown, mm, captions):
    page = shown(**SAMPLES)
    page.evaluate("(mm) => viewer.setSlab('maximum', mm)", mm)
    for plane, thickness in zip(("axial", "coronal", "sagittal"), captions, strict=True):
        text = page.locator(f".xv-tile-{plane} .xv-own").first.inner_text()
        assert text == f"maximum, {thickness:g} mm", plane


def test_what_a_ct_did_not_scan_is_named_and_not_measured(shown, tmp_path):
    hu = np.full(SHAPE, TRUE)
    hu[: SHAPE[0] // 2] = NOT_SCANNED_HU  # the inferior half
    write_nifti(tmp_path / "truth.nii.gz", hu, SPACING)
    content = (tmp_path / "truth.nii.gz").read_bytes()
    shown(**SAMPLES).route("**/holes", lambda route: route.fulfill(body=content, content_type="application/gzip"))
    page = shown(**SAMPLES | {"truthUrl": "/holes"})
    beside = page.locator(".xv-truth")
    page.evaluate("viewer.moveTo([0, 0, 40])")
    assert beside.inner_text() == f"True CT {TRUE} HU"
    page.evaluate("viewer.moveTo([0, 0, -40])")
    assert beside.inner_text() == "True CT not scanned"
    choose(page, "Region")
    drag_in(page, 1, "coronal", (0.45, 0.45), (0.55, 0.55))  # about the middle
    assert f"Region: {TRUE} ± 0 HU" in measured(page) and "partly not scanned" in measured(page)
    drag_in(page, 1, "coronal", (0.45, 0.65), (0.55, 0.75))
    assert "Region: not scanned" in measured(page)
    page.evaluate("viewer.setSlab('mean', 40)")
    page.evaluate("viewer.moveTo([0, 0, -2])")  # the axial slab reaches into the scanned half
    drag_in(page, 1, "axial", *CORNERS)
    assert f"Region: {TRUE} ± 0 HU" in measured(page) and "not scanned" not in measured(page)
    page.evaluate("viewer.setVolume(3)")
    page.evaluate("viewer.moveTo([0, 0, -40])")
    assert page.locator(".xv-hu").inner_text() == "not scanned"
    page.unroute("**/holes")


@pytest.mark.parametrize("kind", ["maximum", "mean", "minimum"])
def test_a_slab_leaves_out_what_was_not_scanned(shown, kind):
    page, rng = shown(**SAMPLES), np.random.default_rng(1)
    values = rng.integers(-1000, 1000, (5, 6, 7)).astype(float)
    values[rng.random(values.shape) < 0.6] = NOT_SCANNED_HU
    values[:, 2, 3] = NOT_SCANNED_HU  # a line without any
    call = """([values, count, kind, type]) => import("/viewer/slab.js").then(
        ({ slab }) => Array.from(slab(window[type].from(values), [7, 6, 5], 2, count, kind)))"""
    reduce = {"maximum": np.nanmax, "mean": np.nanmean, "minimum": np.nanmin}[kind]
    scanned = np.where(values == NOT_SCANNED_HU, np.nan, values)
    for count in (2, 3, 100):
        expected = np.full(values.shape, float(NOT_SCANNED_HU))
        for k in range(5):
            low = k - (count - 1) // 2
            window = scanned[max(0, low) : low + count]
            some = ~np.isnan(window).all(axis=0)
            expected[k][some] = reduce(window[:, some], axis=0)
        for kind_of_array, tolerance in (("Float32Array", 1e-3), ("Int16Array", 1)):
            found = page.evaluate(call, [values.ravel().tolist(), count, kind, kind_of_array])
            np.testing.assert_allclose(np.array(found).reshape(values.shape), expected, atol=tolerance)


def test_statistics_of_an_ellipse(shown):
    page, rng = shown(**SAMPLES), np.random.default_rng(2)
    values = rng.integers(-1000, 1000, (9, 12)).astype(float)  # along y, x
    values[3:5, 4:6] = NOT_SCANNED_HU
    call = """([values, start, end]) => import("/viewer/regions.js").then(({ statistics }) => statistics(
        ([z, x, y]) => (z === 7 ? values[y]?.[x] ?? NaN : 1e6), [7, ...start], [7, ...end], 0))"""
    y, x = np.mgrid[:9, :12]
    for start, end in (((2, 1), (9, 6)), ((9, 6), (2, 1)), ((-3, 2), (6, 11))):  # (x, y); the last reaches outside
        (x0, x1), (y0, y1) = zip(start, end, strict=True)
        inside = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
        chosen = values[inside & (values != NOT_SCANNED_HU)]
        found = page.evaluate(call, [values.tolist(), start, end])
        assert found["count"] == len(chosen) and found["missing"] == (inside & (values == NOT_SCANNED_HU)).sum()
        assert np.isclose(found["mean"], chosen.mean()) and np.isclose(found["stdev"], chosen.std(ddof=1))


def test_hu_as_text_and_the_mark_of_the_data(shown):
    page = shown(**SAMPLES)
    call = """(values) => import("/viewer/hu.js").then(({ NOT_SCANNED_HU, huText }) => [
        NOT_SCANNED_HU, ...[null, [-1000, 500]].flatMap((range) => values.map((value) => huText(value, range)))])"""
    assert page.evaluate(call, [-0.2, -3024, 500, NOT_SCANNED_HU]) == [
        NOT_SCANNED_HU,
        *("0 HU", "−3024 HU", "500 HU", "not scanned"),
        *("0 HU", "≤ −1000 HU", "≥ 500 HU", "not scanned"),
    ]
