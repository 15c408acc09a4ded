"""All common files of one X-ray give the same image; the error of any other file names a remedy."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from radiograph_files import save_radiograph

from common.errors import UserError
from dataset.imaging.drr import scale_xray
from dataset.io.xray import find_xrays, read_xray, resize_xray

SIZE = (64, 64)


def film(bits=8, height=96, width=96):
    """Bright bone, no symmetry: a bright block near the upper left, a ramp to the right."""
    image = np.tile(np.linspace(0.1, 0.6, width), (height, 1))
    image[height // 8 : height // 4, width // 8 : width // 3] = 1.0
    image[-height // 6 :] = 0.0
    return np.rint(image * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def save_dicom(path, pixels, photometric="MONOCHROME2", bits=12, **tags):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = (
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
    )
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.PatientID = "DX", "x"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, 0
    ds.PixelData = pixels.astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    pydicom.dcmwrite(path, ds)
    return path


@pytest.fixture
def expected():
    image = film().astype(np.float32)
    return resize_xray(scale_xray(torch.from_numpy(image)), SIZE)


def close(path, expected, tolerance=0.01):
    image = read_xray(path, SIZE)
    assert image.shape == SIZE and image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1
    torch.testing.assert_close(image, expected, atol=tolerance, rtol=0)


def test_png_of_8_and_16_bits_and_rgb_and_jpeg(tmp_path, expected):
    Image.fromarray(film(8)).save(tmp_path / "a.png")
    Image.fromarray(film(16)).save(tmp_path / "b.png")
    Image.fromarray(np.stack([film(8)] * 3, axis=-1)).save(tmp_path / "c.png")
    close(tmp_path / "a.png", expected, 1e-6)
    close(tmp_path / "b.png", expected)
    close(tmp_path / "c.png", expected, 1e-6)
    Image.fromarray(np.stack([film(8)] * 3, axis=-1)).save(tmp_path / "d.jpg", quality=98, subsampling=0)
    close(tmp_path / "d.jpg", expected, 0.05)
    assert Image.open(tmp_path / "b.png").mode.startswith("I")


def test_16_bits_are_not_cut_to_8(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint16), (256, 1)) + 30000  # within one grey value of 8 bits
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert len(read_xray(tmp_path / "a.png", (256, 256)).unique()) > 200
    save_dicom(tmp_path / "a.dcm", ramp, bits=16)
    assert len(read_xray(tmp_path / "a.dcm", (256, 256)).unique()) > 200


def test_dicom_polarity_rescale_and_window(tmp_path, expected):
    stored = film(16) >> 4  # 12 bits
    close(save_dicom(tmp_path / "m2.dcm", stored), expected)
    close(save_dicom(tmp_path / "m1.dcm", 4095 - stored, "MONOCHROME1"), expected)
    close(save_dicom(tmp_path / "inverse.dcm", 4095 - stored, PresentationLUTShape="INVERSE"), expected)
    close(save_dicom(tmp_path / "slope.dcm", stored, RescaleSlope=2, RescaleIntercept=-50), expected)
    path = save_dicom(tmp_path / "window.dcm", stored, WindowCenter=1000, WindowWidth=500)
    saturated = read_xray(path, SIZE)
    assert ((saturated < 0.01) | (saturated > 0.99)).float().mean() > (
        ((expected < 0.01) | (expected > 0.99)).float().mean() + 0.3
    )
    (tmp_path / "no_ending").write_bytes((tmp_path / "m1.dcm").read_bytes())
    close(tmp_path / "no_ending", expected)


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "LIP", "RSA", "PLS", "SRA", "PIL", "ASR", "IPL", "SAR"])
def test_nifti_is_turned_by_its_affine(tmp_path, expected, axcodes):
    # as stored from an image: columns to the left, of a lateral backward; rows down, of an axial slice backward
    base = {"L": "PIL", "R": "PIL", "A": "LIP", "P": "LIP"}.get(axcodes[2], "LPS")
    image = nib.Nifti1Image(film(8).T[:, :, None].astype(np.int16), base_affine(base))
    orientation = nib.orientations.axcodes2ornt(tuple(axcodes))
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), orientation))
    nib.save(turned, tmp_path / "a.nii.gz")
    assert nib.aff2axcodes(nib.load(tmp_path / "a.nii.gz").affine) == tuple(axcodes)
    close(tmp_path / "a.nii.gz", expected, 1e-6)


def base_affine(axcodes):
    ornt = nib.orientations.axcodes2ornt(tuple(axcodes))
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, sign) in enumerate(ornt):
        affine[int(world), axis] = sign
    return affine


def test_two_dimensional_nifti(tmp_path, expected):
    nib.save(nib.Nifti1Image(film(8).T.astype(np.int16), base_affine("LPS")), tmp_path / "a.nii")
    close(tmp_path / "a.nii", expected, 1e-6)


@pytest.mark.parametrize("shape", [(90, 60), (60, 90)])
def test_a_film_that_is_not_square_keeps_its_aspect(tmp_path, shape):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    disc = ((yy - shape[0] / 2) ** 2 + (xx - shape[1] / 2) ** 2 < 20**2) * 200 + 30
    Image.fromarray(disc.astype(np.uint8)).save(tmp_path / "a.png")
    image = read_xray(tmp_path / "a.png", (90, 90))
    bright = (image > 0.5).nonzero()
    height, width = (bright.max(dim=0).values - bright.min(dim=0).values + 1).tolist()
    assert abs(height - 40) <= 1 and abs(width - 40) <= 1
    assert image[0, 0].isnan() and image[-1, -1].isnan()  # the padding is unknown


def test_shrinking_does_not_alias(tmp_path):
    noise = np.random.default_rng(0).integers(20, 220, (256, 256)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    image = read_xray(tmp_path / "a.png", (32, 32))
    assert image.std() < 0.06 and 0.4 < image.mean() < 0.6  # 0.29 before; 8 x 8 pixels are averaged


def bad_alpha(path):
    rgba = np.stack([film(8)] * 3 + [np.full((96, 96), 254, np.uint8)], axis=-1)
    Image.fromarray(rgba).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def bad_grey_alpha(path):
    picture = Image.fromarray(film(8)).convert("LA")
    picture.putalpha(254)
    picture.save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def bad_transparent_palette(path):
    Image.fromarray(film(8)).convert("P").save(path.with_suffix(".png"), transparency=3)
    return path.with_suffix(".png")


def bad_colour(path):
    rgb = np.stack([film(8), film(8) // 2, film(8)], axis=-1)
    Image.fromarray(rgb).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def bad_constant(path):
    Image.fromarray(np.full((96, 96), 77, np.uint8)).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def bad_nearly_constant(path):
    blank = np.full((96, 96), 77, np.uint8)
    blank[3, 3] = 255
    Image.fromarray(blank).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def bad_constant_field(path):
    """One grey value in an exposed circle."""
    circle = np.hypot(*np.mgrid[-48:48, -48:48]) < 40
    Image.fromarray(np.where(circle, 77, 0).astype(np.uint8)).save(path.with_suffix(".png"), transparency=0)
    return path.with_suffix(".png")


def bad_text(path):
    path.with_suffix(".png").write_text("this is no image")
    return path.with_suffix(".png")


def bad_truncated(path):
    Image.fromarray(film(8)).save(path.with_suffix(".png"))
    data = path.with_suffix(".png").read_bytes()
    path.with_suffix(".png").write_bytes(data[: len(data) // 2])
    return path.with_suffix(".png")


def bad_strip(path):
    Image.fromarray(film(8, 20, 96)).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def bad_frames(path):
    frames = [Image.fromarray(film(8)), Image.fromarray(film(8)[::-1].copy())]
    frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])
    return path.with_suffix(".gif")


def bad_dicom(path):
    path.with_suffix(".dcm").write_text("this is no image")
    return path.with_suffix(".dcm")


def bad_dicom_without_pixels(path):
    save_dicom(path.with_suffix(".dcm"), film(16))
    ds = pydicom.dcmread(path.with_suffix(".dcm"))
    del ds.PixelData
    ds.save_as(path.with_suffix(".dcm"))
    return path.with_suffix(".dcm")


def bad_dicom_truncated(path):
    save_dicom(path.with_suffix(".dcm"), film(16))
    path.with_suffix(".dcm").write_bytes(path.with_suffix(".dcm").read_bytes()[:-5000])
    return path.with_suffix(".dcm")


def bad_volume(path):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((20, 20, 20)), np.eye(4)), path.with_suffix(".nii"))
    return path.with_suffix(".nii")


def bad_nan(path):
    image = film(8).astype(np.float32)
    image[4, 4] = np.nan
    nib.save(nib.Nifti1Image(image, np.eye(4)), path.with_suffix(".nii"))
    return path.with_suffix(".nii")


def bad_missing(path):
    return path.with_suffix(".png")


BAD = {
    bad_alpha: "alpha",
    bad_grey_alpha: "alpha",
    bad_transparent_palette: "alpha",
    bad_colour: "colour",
    bad_constant: "blank",
    bad_nearly_constant: "blank",
    bad_constant_field: "blank",
    bad_text: "not an image",
    bad_truncated: "not an image",
    bad_strip: "96x20 pixels",
    bad_frames: "2 frames",
    bad_dicom: "not readable as DICOM",
    bad_dicom_without_pixels: "without pixel data",
    bad_dicom_truncated: "not readable as DICOM",
    bad_volume: "one slice",
    bad_nan: "NaN",
    bad_missing: "no such file",
}


@pytest.mark.parametrize("make", BAD, ids=lambda f: f.__name__)
def test_bad_xrays_give_one_line_with_file_and_remedy(tmp_path, make):
    path = make(tmp_path / "bad")
    with pytest.raises(UserError, match=BAD[make]) as caught:
        read_xray(path)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line and "; " in line


def test_folder_of_xrays(tmp_path):
    with pytest.raises(UserError, match="no X-ray"):
        find_xrays(tmp_path)
    for name in ("b.png", "a.JPG", "c.dcm", "d.nii.gz", "e.TIF", "f.bmp", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "BMI.txt").write_text("BMI 25")
    (tmp_path / "inside").mkdir()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "picture", "PNG")
    names = ["a.JPG", "b.png", "c.dcm", "d.nii.gz", "e.TIF", "f.bmp", "picture"]
    assert [p.name for p in find_xrays(tmp_path)] == names


def test_dicom_files_without_an_image_are_left_out_with_a_warning(tmp_path, caplog):
    save_radiograph(tmp_path / "IM1", view="PA")
    for name, modality in (("PR1", "PR"), ("SR1", "SR")):
        header = pydicom.dcmread(tmp_path / "IM1")
        header.Modality = modality
        for key in ("PixelData", "Rows", "Columns"):
            delattr(header, key)
        header.save_as(tmp_path / name)
    assert [p.name for p in find_xrays(tmp_path)] == ["IM1"]
    assert "2 DICOM files without an image are left out, such as PR1" in caplog.text
    (tmp_path / "IM1").unlink()
    with pytest.raises(UserError, match="no X-ray in it"):
        find_xrays(tmp_path)


def test_real_films_read_as_chests(real_data):
    for path in sorted((real_data / "xray").glob("*.png")):
        image = read_xray(path, (64, 64))
        assert 0.2 < image.nanmean() < 0.8
        columns = image[16:48].mean(dim=0)
        assert columns[28:36].mean() > columns[14:24].mean()  # the spine is brighter than the lung beside it
