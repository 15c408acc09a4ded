"""The page in a real browser: upload, generate, view, cancel, compare, download."""

import json
import threading
import zipfile
from dataclasses import replace

import nibabel as nib
import pytest
from browser import chromium, generate, needs_browser, outside, pixels, upload, watched_page

pytest.importorskip("gradio", reason="gradio is not installed, the page is not tested")
from demo_parts import save_film, served, small_service  # noqa: E402

from demo.service.examples import EXAMPLES  # noqa: E402

pytestmark = [needs_browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The service, the address of its application, and a browser."""
    from demo.server.app_factory import build_app

    service = small_service(tmp_path_factory.mktemp("run"))
    with served(build_app(service)) as address, chromium() as browser:
        yield service, address, browser
    service.close()


@pytest.fixture
def page(desk):
    """The page after loading."""
    _, address, browser = desk
    with watched_page(browser, (1280, 800)) as page:
        page.goto(address)
        page.wait_for_selector("#xc-generate")
        yield page


def test_upload_generate_view_and_download(page, tmp_path):
    upload(page, save_film(tmp_path / "MEIER^ANNA.png"))
    page.wait_for_selector(".xc-seen img")
    assert "right on the left" in page.locator(".xc-seen figcaption").inner_text()
    generate(page, steps=3, samples=2, seed=7)
    page.wait_for_selector(".xv[data-ready]")
    page.wait_for_timeout(500)
    assert page.evaluate("document.activeElement.className") == "xv-desk"  # before any click
    for plane in ("axial", "coronal", "sagittal"):
        assert pixels(page, page.locator(f".xv-tile-{plane}").bounding_box()).std() > 5
    before = page.locator(".xv-hu").inner_text(), page.locator(".xv-place").inner_text()
    box = page.locator(".xv-tile-coronal").bounding_box()
    page.mouse.click(box["x"] + 0.45 * box["width"], box["y"] + 0.4 * box["height"])
    assert (page.locator(".xv-hu").inner_text(), page.locator(".xv-place").inner_text()) != before
    assert "(nominal)" in page.locator(".xv-place").inner_text()
    page.locator(".xv-toolbar button", has_text="Spread").click()
    page.wait_for_selector(".xv-spread")
    assert page.locator(".xv-toolbar button", has_text="Evidence").count() == 0
    assert "No evidence map: 2 of the 4 samples" in page.locator(".xc-pictures").inner_text()

    assert "Synthetic, not for diagnosis" in page.locator(".xc-banner").inner_text()
    assert page.locator(".xv-synthetic:visible").count() == 4
    assert "millilitres" in page.locator(".xc-pictures").inner_text()
    assert "The volume is ready" in page.locator("#xc-say").inner_text()
    films = page.locator(".xc-film")
    assert films.count() == 2
    down = "document.querySelectorAll('.xc-film .xc-down')[1].style.left"
    before = page.evaluate(down)
    box = films.nth(1).bounding_box()
    films.nth(1).click(position={"x": 0.3 * box["width"], "y": 0.4 * box["height"]})
    assert page.evaluate(down) != before  # the crosshair is linked to the X-ray, within a voxel
    assert abs(float(page.evaluate(down).rstrip("%")) - 30) < 100 / 32
    picture = page.locator(".xc-film img").first
    before = picture.get_attribute("src")
    page.locator(".xc-toggle input").click()
    assert picture.get_attribute("src") != before
    files = {}
    for label in ("NIfTI", "DICOM series", "GIF", "Settings", "Sample 2, NIfTI"):
        with page.expect_download() as started:
            page.locator(".xc-links").get_by_text(label, exact=True).click()
        files[label] = tmp_path / started.value.suggested_filename
        started.value.save_as(files[label])
        assert files[label].name.startswith("synthetic_")
    hu = nib.load(files["NIfTI"]).get_fdata()
    assert hu.shape == (32, 32, 32) and -1000 <= hu.min() < hu.max() <= 1000
    assert nib.load(files["Sample 2, NIfTI"]).shape == (32, 32, 32)
    assert len(zipfile.ZipFile(files["DICOM series"]).namelist()) == 32
    settings = json.loads(files["Settings"].read_text())
    assert settings["seed"] == 7 and settings["samples"] == 2
    assert "MEIER" not in files["Settings"].read_text()  # a file name may be the patient's

    assert outside(page) == [] and len(page.asked) > 20
    assert page.wrong == []


def test_four_samples_show_what_the_xray_determined(page, tmp_path):
    upload(page, save_film(tmp_path / "film.png"))
    page.wait_for_selector(".xc-seen img")
    generate(page, steps=1, samples=4)
    page.wait_for_selector(".xv[data-ready]")
    page.keyboard.press("e")
    page.wait_for_selector(".xv-evidence")
    text = page.locator(".xv-evidence").inner_text()
    assert text.startswith("Evidence ") and text.endswith(" %") and 0 <= int(text.split()[1]) <= 100
    assert page.locator(".xv-legend:visible").count() == 1
    note = page.locator(".xc-pictures").inner_text()
    assert "blue, where they agree" in note and "40 training volumes" in note and "not checked" in note
    with page.expect_download() as started:
        page.locator(".xc-links").get_by_text("Evidence, NIfTI", exact=True).click()
    started.value.save_as(tmp_path / "evidence.nii.gz")
    assert nib.load(tmp_path / "evidence.nii.gz").shape == (32, 32, 32) and page.wrong == []


def test_an_uploaded_ct_is_shown_with_metrics(page, tmp_path):
    from dataset.io.nifti import write_nifti
    from dataset.phantom.render import render_phantom

    phantom = render_phantom(3, size=(32, 32, 32))
    write_nifti(tmp_path / "ct.nii.gz", phantom.hu, phantom.spacing)
    upload(page, save_film(tmp_path / "film.png"))
    page.wait_for_selector(".xc-seen img")
    upload(page, tmp_path / "ct.nii.gz", "#xc-truth")
    page.wait_for_function("() => document.querySelector('#xc-truth').innerText.includes('ct')")
    page.locator("#xc-generate").click()
    page.wait_for_selector(".xv[data-ready]")
    assert page.locator(".xv-name").all_inner_texts() == ["Generated", "True CT"]
    rows = page.locator(".xc-metrics tr").all_inner_texts()
    assert any(row.startswith("PSNR") for row in rows) and len(rows) >= 4


def test_cancel_frees_the_worker(desk, page, tmp_path):
    service = desk[0]
    upload(page, save_film(tmp_path / "film.png"))
    page.wait_for_selector(".xc-seen img")
    generate(page, steps=1000)
    page.wait_for_selector(".xc-progress")
    page.wait_for_function("() => /step \\d+ of 1000/.test(document.querySelector('#xc-status').innerText)")
    page.wait_for_selector(".xc-preview img")
    page.locator("#xc-cancel").click()
    page.wait_for_selector(".xc-note.xc-message")
    assert "Cancelled" in page.locator("#xc-status").inner_text()
    for _ in range(50):
        if service.queue.length == 0:
            break
        page.wait_for_timeout(100)
    assert service.queue.length == 0
    assert page.locator("#xc-generate").is_enabled() and page.locator(".xv").count() == 0


def test_an_unreadable_file_is_refused_in_one_line(page, tmp_path):
    page.locator("#xc-generate").click()
    page.wait_for_selector(".xc-message")
    assert "Give an X-ray" in page.locator("#xc-status").inner_text()
    (tmp_path / "notes.png").write_text("<script>document.title = 'run'</script>")
    upload(page, tmp_path / "notes.png")
    page.wait_for_selector("#xc-seen .xc-error")
    assert "\n" not in page.locator("#xc-seen .xc-error").inner_text().strip()
    assert page.title() != "run"


def test_the_preview_is_that_of_the_newest_xray(desk, page, tmp_path, monkeypatch):
    """Another X-ray, or none, while a check runs."""
    service, looked, go_on = desk[0], [], threading.Event()
    look = service.look

    def slow(xray, *options):
        looked.append(xray.name)
        assert len(looked) == 2 or go_on.wait(30)
        return replace(look(xray, *options), warnings=[xray.name])

    def wait_for(count: int) -> None:
        for _ in range(300):
            if len(looked) == count:
                return
            page.wait_for_timeout(100)
        raise TimeoutError(looked)

    monkeypatch.setattr(service, "look", slow)
    first, second = list(EXAMPLES)[:2]
    page.locator("#xc-samples label", has_text=first).click()
    wait_for(1)
    page.locator("#xc-samples label", has_text=second).click()
    page.wait_for_timeout(1000)
    go_on.set()
    page.wait_for_selector(".xc-warnings")
    assert looked == [EXAMPLES[name].film for name in (first, second)]
    assert page.locator(".xc-warnings").inner_text() == looked[1]

    go_on.clear()
    upload(page, save_film(tmp_path / "film.png"))
    wait_for(3)
    assert page.locator("#xc-samples input:checked").count() == 0  # replaced at once
    page.locator("#xc-xray button[aria-label*=lear]").click()
    page.wait_for_timeout(1000)
    go_on.set()
    page.wait_for_timeout(2000)
    assert page.locator(".xc-seen img").count() == 0 and page.wrong == []


def test_light_and_dark_theme_and_width(page):
    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.wait_for_function("() => Boolean(window.xray2ct)")
    first = background()
    page.locator("#xc-theme").click()
    page.wait_for_timeout(300)
    assert background() != first
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
