"""Uploads: valid files pass under any name; hostile files are refused fast and in little memory."""

import gzip
import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from demo_parts import save_film, small_pipeline
from hostile import JPEG, dicom, grey, hostile_cts, hostile_xrays, jpeg, many_scans, nifti, png, png_of
from PIL import Image
from pydicom.encaps import encapsulate
from radiograph_files import save_radiograph

from common.errors import UserError
from dataset.io.ct import read_volume
from dataset.io.nifti import write_nifti
from dataset.io.xray import read_xray_image
from demo.service.xray_checks import check_xray
from demo.uploads.accept import accept_upload

MOST = 64 << 20
SECONDS = 1.0
MEGABYTES = 150  # limit of the added memory of 260 files; the largest adds 12


@pytest.fixture(scope="module")
def pipeline():
    return small_pipeline()


def peak_megabytes(reset: bool = False) -> float:
    """Peak memory of this process in MB since the last reset; 0 without /proc."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def accepted(data: bytes, folder, name="upload") -> str:
    (folder / name).write_bytes(data)
    (folder / "place").mkdir(exist_ok=True)
    return accept_upload(folder / name, folder / "place", MOST).name


@pytest.mark.parametrize("name", ["x.png", "x.exe", "..png", "-rf", "x.nii.gz"])
def test_the_kind_follows_from_the_content(tmp_path, name):
    kinds = {"upload.png": png(), "upload.jpg": jpeg(), "upload.dcm": dicom(), "upload.nii": nifti(),
             "upload.nii.gz": gzip.compress(nifti())}  # fmt: skip
    for expected, data in kinds.items():
        assert accepted(data, tmp_path, name) == expected
        assert (tmp_path / "place" / expected).read_bytes() == data


@pytest.mark.parametrize("options", [{}, {"view": "AP"}, {"photometric": "MONOCHROME1"}, {"PixelPaddingValue": 0}])
def test_radiographs_reach_the_model(tmp_path, pipeline, options):
    kept = accept_upload(save_radiograph(tmp_path / "a.dcm", **options), tmp_path, MOST)
    assert check_xray(kept, pipeline, tmp_path / "seen.png").shown.notes["view"] == options.get("view", "PA")


def test_every_real_film_passes(tmp_path, pipeline, real_data):
    for film in sorted((real_data / "xray").glob("*.png")):
        assert check_xray(accept_upload(film, tmp_path, MOST), pipeline, tmp_path / "seen.png").shown is not None


def test_hostile_files_are_refused_fast_in_little_memory(tmp_path, pipeline):
    """Each file passes the check of uploads and then the reader."""
    check_xray(
        save_film(tmp_path / "warm.png"), pipeline, tmp_path / "seen.png"
    )  # loads libraries before the measurement
    place, upload, slow, accepted_names = tmp_path / "place", tmp_path / "upload", [], []
    place.mkdir()
    count, before = 0, peak_megabytes(reset=True)
    for name, data in hostile_xrays():
        upload.write_bytes(data)
        count, started, refusal = count + 1, time.process_time(), None
        try:
            check_xray(accept_upload(upload, place, MOST), pipeline, tmp_path / "seen.png")
        except UserError as error:
            refusal = str(error)
        took = time.process_time() - started
        if took > SECONDS:
            slow.append((name, round(took, 2)))
        if refusal is None and not name.startswith("maybe"):
            accepted_names.append(name)
        assert refusal is None or ("\n" not in refusal and len(refusal) < 400), name
        assert refusal is None or "MUELLER" not in refusal, name
    assert count >= 200 and not slow and not accepted_names
    assert peak_megabytes() - before < MEGABYTES


def test_hostile_cts_are_refused_fast(tmp_path):
    for name, data in hostile_cts():
        (tmp_path / "upload").write_bytes(data)
        started = time.process_time()
        with pytest.raises(UserError):
            read_volume(accept_upload(tmp_path / "upload", tmp_path, MOST, volume=True))
        assert time.process_time() - started < SECONDS, name


def test_a_ct_passes(tmp_path):
    hu = np.random.default_rng(0).uniform(-1000, 500, (8, 9, 10))
    write_nifti(tmp_path / "ct.nii.gz", hu, (2.0, 2.0, 2.0), description="original CT")
    assert read_volume(accept_upload(tmp_path / "ct.nii.gz", tmp_path, MOST, volume=True)).hu.shape == (8, 9, 10)


@pytest.mark.parametrize("trailer", [b"MZ\x90\0" * 240, b"<script>x</script>", bytes(3000), b"\xff\xd9", jpeg()])
def test_what_follows_a_picture_is_not_copied(tmp_path, trailer):
    """The page accepts what the command accepts, and keeps the picture alone."""
    progressive = io.BytesIO()
    Image.fromarray(grey(200)).save(progressive, "JPEG", progressive=True)
    for kind, data in {"png": png(), "jpg": jpeg(), "more.jpg": progressive.getvalue()}.items():
        place = tmp_path / kind
        place.mkdir()
        (tmp_path / f"upload.{kind}").write_bytes(data + trailer)
        kept = accept_upload(tmp_path / f"upload.{kind}", place, MOST)
        assert kept.read_bytes() == data
        assert (read_xray_image(kept).image == read_xray_image(tmp_path / f"upload.{kind}").image).all()


def test_a_preview_within_or_behind_a_jpeg_is_not_its_end(tmp_path):
    buffer = io.BytesIO()
    small, large = Image.fromarray(grey(32)), Image.fromarray(grey(96))
    large.save(buffer, "MPO", save_all=True, append_images=[small])
    inside = jpeg()[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(jpeg(grey(16)))) + jpeg(grey(16)) + jpeg()[2:]
    for data, side in ((buffer.getvalue(), 96), (inside, 64)):
        (tmp_path / "upload").write_bytes(data)
        assert read_xray_image(accept_upload(tmp_path / "upload", tmp_path, MOST)).image.shape == (side, side)


def test_the_limit_of_pixels_is_named(tmp_path):
    """Each side is within its own limit."""
    with pytest.raises(UserError, match="7000x5000 pixels, at most 8192 a side and 30 million in all are allowed"):
        accepted(png_of(7000, 5000), tmp_path)


def test_a_progressive_jpeg_passes_up_to_a_number_of_scans(tmp_path):
    for data in (many_scans(50), dicom(syntax=JPEG, pixels=encapsulate([many_scans(50)]))):
        accepted(data, tmp_path)
    with pytest.raises(UserError, match="a JPEG of 1.. scans, at most 100 are allowed"):
        accepted(many_scans(), tmp_path)


def test_large_files_are_refused_before_reading(tmp_path):
    with (tmp_path / "upload").open("wb") as file:
        file.write(png())
        file.truncate(10 << 30)  # a sparse file: reading it would take a minute
    started = time.process_time()
    with pytest.raises(UserError, match="10240 MB, at most 64 MB"):
        accept_upload(tmp_path / "upload", tmp_path, MOST)
    assert time.process_time() - started < 0.1
