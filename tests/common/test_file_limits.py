"""Readers reject files with false sizes, decompression bombs, executable formats and paths out of the folder."""

import gzip
import io

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from folder_sources import source as folder_source
from fuzz_seeds import dicom
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from common import file_limits as limits
from common.errors import UserError
from dataset.io.ct import read_volume
from dataset.io.dicom_headers import read_ct_header
from dataset.io.xray import read_xray
from dataset.manifest.table import read_manifest
from dataset.sources.folder_scan import discover


def chest(path):
    hu = np.full((6, 6, 6), -1000, np.int16)
    hu[2:4, 2:4, 2:4] = 40
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(hu, np.diag([-2.0, -2.0, 3.0, 1.0])), path)
    return path


def with_header(path, changes):
    """The file with other numbers at some places of its NIfTI header."""
    data = bytearray(path.read_bytes())
    for at, value in changes.items():
        data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


def test_an_oversized_volume_is_rejected_by_its_header(tmp_path):
    size = np.array([3, 32000, 32000, 32000], np.int16).tobytes()
    plain, packed = with_header(chest(tmp_path / "ct.nii"), {40: size}), tmp_path / "ct.nii.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        with pytest.raises(UserError, match="voxels in its header, at most"):
            read_volume(path)
        with pytest.raises(UserError, match="pixels in its header, at most"):
            read_xray(path)


def test_a_data_offset_beyond_the_limit(tmp_path):
    path = with_header(chest(tmp_path / "ct.nii"), {108: np.float32(2e9).tobytes()})
    with pytest.raises(UserError, match="would start at byte|damaged"):
        read_volume(path)


def test_an_affine_with_parallel_axes(tmp_path):
    """Found by fuzzing: then no axis of the array is the one from left to right."""
    path = chest(tmp_path / "ct.nii")
    row = np.array([2, 2, 0, 0], np.float32).tobytes()
    with_header(path, {280: row, 296: bytes(16), 312: np.array([0, 0, 3, 0], np.float32).tobytes()})
    with pytest.raises(UserError, match="two axes of the affine are parallel"):
        read_volume(path)
    flat = np.add.outer(np.arange(30), np.arange(30)).astype(np.int16)[..., None]
    nib.save(nib.Nifti1Image(flat, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "film.nii")
    for lost in ([0, 0, 0, 0], [np.nan] * 4):
        with_header(tmp_path / "film.nii", {280: np.array(lost, np.float32).tobytes()})
        try:
            assert read_xray(tmp_path / "film.nii", (32, 32)).isfinite().all()
        except UserError as error:
            assert "film.nii" in str(error)


def npy(header: dict) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"fortran_order": False, **header})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("film.npy", npy({"descr": "<f8", "shape": (9**9, 9**9)}), "film.npy"),  # an array shorter than its header
        (
            "film.npy",
            npy({"descr": "|u1", "shape": (20, 20)}).replace(b"(20, 20)", b"(20,\xff20 "),
            "not a NumPy array",
        ),
        ("film.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n", "not an image"),
    ],
)
def test_files_of_another_format_or_size_are_rejected(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_xray(tmp_path / name)


def test_an_image_of_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PIXELS", 1000)
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(tmp_path / "film.png")
    with pytest.raises(UserError, match="40x40 pixels in its header, at most 1,000"):
        read_xray(tmp_path / "film.png")
    (tmp_path / "film.dcm").write_bytes(dicom(tmp_path, Rows=4000, Columns=4000))
    with pytest.raises(UserError, match="4000x4000 pixels"):
        read_xray(tmp_path / "film.dcm")


def test_a_decompression_bomb(tmp_path, monkeypatch):
    content = dicom(tmp_path, DeflatedExplicitVRLittleEndian)
    (tmp_path / "film.dcm").write_bytes(content)
    read_xray(tmp_path / "film.dcm", (24, 24))  # as it should be
    monkeypatch.setattr(limits, "MAX_UNPACKED", 500)
    with pytest.raises(UserError, match="unpacks to over"):
        read_xray(tmp_path / "film.dcm")
    assert read_ct_header(tmp_path / "film.dcm") is None


def test_a_value_that_fails_only_on_access(tmp_path):
    """Found by fuzzing: pydicom converts a value late, after the file was read."""
    path = tmp_path / "film.dcm"
    content = dicom(tmp_path, PixelPaddingValue=0)
    at = content.index(b"\x28\x00\x20\x01US\x02\x00")
    path.write_bytes(content[: at + 6] + b"\x03\x00" + content[at + 8 : at + 10] + b"\x00" + content[at + 10 :])
    with pytest.raises(UserError, match="film.dcm"):
        read_xray(path)


def test_a_manifest_with_a_repeated_column(tmp_path):
    """pandas tells equal names apart; names that differ by a space become equal later."""
    (tmp_path / "manifest.csv").write_text("id ,id,patient,ct\na,a,p,a.nii.gz\n")
    with pytest.raises(UserError, match="two columns are called 'id'"):
        read_manifest(tmp_path / "manifest.csv")


@pytest.mark.parametrize("leave", ["../out/secret.nii.gz", "{tmp}/out/secret.nii.gz", "link.nii.gz"])
def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path, leave):
    secret = chest(tmp_path / "out" / "secret.nii.gz")
    root = tmp_path / "in"
    chest(root / "a.nii.gz")
    (root / "link.nii.gz").symlink_to(secret)
    table = pd.DataFrame({"id": ["a", "b"], "patient": ["p", "q"], "ct": ["a.nii.gz", leave.format(tmp=tmp_path)]})
    table.to_csv(root / "manifest.csv", index=False)
    with pytest.raises(UserError, match="row 3, ct: .* leads out of .*follow_links=true"):
        _ = folder_source(root).rows
    assert len(folder_source(root, follow_links=True).rows) == 2


def test_only_links_out_of_a_scanned_folder_are_rejected(tmp_path):
    chest(tmp_path / "out" / "secret.nii.gz")
    root = tmp_path / "in"
    chest(root / "a.nii.gz")
    (root / "b.nii.gz").symlink_to(root / "a.nii.gz")
    (root / "gone.nii.gz").symlink_to(root / "nowhere")
    assert len(discover(root)) >= 2
    (root / "more").symlink_to(tmp_path / "out")
    with pytest.raises(UserError, match="a link: .*more leads out of"):
        discover(root)
    assert len(discover(root, follow_links=True)) >= 3


def test_a_loop_of_links_ends(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert not limits.is_inside(tmp_path / "a", tmp_path / "c")
