"""A picture is read as viewers show it: orientation and polarity of its file, without its previews."""

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from radiograph_files import film

from common.errors import UserError
from dataset.io.xray import read_xray_image

GREY = (film() >> 4).astype(np.uint8)
TURNED = {  # EXIF orientation -> how the file stores an upright picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a),
    7: lambda a: np.rot90(a.T, 2),
    8: lambda a: np.rot90(a, -1),
}


def alike(path, least=0.99):
    expected = read_xray_image_of(GREY)
    found = read_xray_image(path).image
    assert found.shape == expected.shape and np.corrcoef(found.ravel(), expected.ravel())[0, 1] > least


def read_xray_image_of(array):
    return array.astype(np.float32)


def orientation(tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
@pytest.mark.parametrize("tag", TURNED)
def test_the_orientation_of_the_file_is_applied(tmp_path, tag, ending):
    stored = np.ascontiguousarray(TURNED[tag](GREY))
    Image.fromarray(stored).save(tmp_path / f"a.{ending}", exif=orientation(tag))
    alike(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("tag", [3, 6])
def test_16_bits_and_colour_are_turned_too(tmp_path, tag):
    stored = np.ascontiguousarray(TURNED[tag](GREY))
    Image.fromarray(stored.astype(np.uint16) * 200).save(tmp_path / "a.png", exif=orientation(tag))
    Image.fromarray(np.stack([stored] * 3, axis=-1)).save(tmp_path / "b.jpg", exif=orientation(tag), quality=95)
    for name in ("a.png", "b.jpg"):
        alike(tmp_path / name)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_white_is_zero_in_a_tiff(tmp_path, kind):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[262] = 0
    stored = GREY.max() - GREY
    path = tmp_path / "a.tif"
    Image.fromarray(stored.astype(kind)).save(path, tiffinfo=info)
    data = path.read_bytes()
    at = data.index(b"\x06\x01\x03\x00\x01\x00\x00\x00")  # photometric interpretation, one short
    path.write_bytes(data[: at + 8] + b"\0\0" + data[at + 10 :])
    if kind is np.uint8:  # Pillow inverts what it writes as well
        stored = np.asarray(Image.open(path))
        assert np.corrcoef(read_xray_image(path).image.ravel(), stored.ravel())[0, 1] > 0.999
    else:
        alike(path)


def test_a_camera_s_preview_is_no_second_frame(tmp_path):
    picture = Image.fromarray(GREY).convert("RGB")
    preview = picture.resize((32, 40))
    picture.save(tmp_path / "one.jpg", quality=95)
    picture.save(tmp_path / "two.jpg", format="MPO", save_all=True, append_images=[preview], quality=95)
    assert (read_xray_image(tmp_path / "one.jpg").image == read_xray_image(tmp_path / "two.jpg").image).all()
    reduced = TiffImagePlugin.ImageFileDirectory_v2()
    reduced[254] = 1
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "two.tif") as file:
        Image.fromarray(GREY).save(file, "TIFF")
        file.newFrame()
        Image.fromarray(GREY).resize((32, 40)).save(file, "TIFF", tiffinfo=reduced)
    alike(tmp_path / "two.tif")


@pytest.mark.parametrize("ending", ["tif", "gif", "png"])
def test_two_pictures_are_refused(tmp_path, ending):
    pages = [Image.fromarray(page) for page in (GREY, GREY[::-1])]
    pages[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match="2 frames"):
        read_xray_image(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("axes", [(None,), (None, None), (Ellipsis, None), (None, Ellipsis, None)])
def test_axes_of_length_one_of_an_array(tmp_path, axes):
    np.save(tmp_path / "a.npy", GREY[axes])
    alike(tmp_path / "a.npy")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_opaque_alpha_channel_is_none(tmp_path, mode):
    grey = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1)))
    grey.convert(mode).save(tmp_path / "a.png")
    assert (read_xray_image(tmp_path / "a.png").image == np.asarray(grey)).all()
    half = grey.convert(mode)
    half.putalpha(128)
    half.save(tmp_path / "b.png")
    with pytest.raises(UserError, match="has an alpha channel"):
        read_xray_image(tmp_path / "b.png")
