"""The viewer in a real browser on small volumes with a bright block, and what tests of it do with a page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from browser import chromium, pixels, served, watched_page

from dataset.io.nifti import write_nifti
from demo.server.app_factory import viewer_files

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


@contextmanager
def viewer_opener(folder: Path) -> Iterator[Callable]:
    """A function that opens the viewer with options on volumes written to a folder; everything shares one browser."""
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
