"""The display of a radiograph does not depend on its storage; other modalities and laterals are errors."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import torch
from radiograph_files import film, save_radiograph

from common.errors import UserError
from dataset.imaging.drr import render_xray
from dataset.imaging.geometry import view_pose
from dataset.io.xray import read_xray, read_xray_image, scale_xray_image
from dataset.io.xray_dicom import MODALITIES, read_dicom_xray, upright, view_of

TOP = 4095
SIZE = (40, 32)


def displayed(path):
    return scale_xray_image(read_xray_image(path)).numpy()


@pytest.fixture
def expected(tmp_path):
    return displayed(save_radiograph(tmp_path / "expected.dcm"))


def same(path, expected, tolerance=1e-3):
    np.testing.assert_allclose(displayed(path), expected, atol=tolerance)


def test_bone_is_bright_whatever_the_polarity(tmp_path, expected):
    assert expected[40, 32] > 0.9 and expected[40, 18] < 0.1  # spine and lung
    inverted = TOP - film()
    same(save_radiograph(tmp_path / "a.dcm", inverted, photometric="MONOCHROME1"), expected)
    same(save_radiograph(tmp_path / "b.dcm", inverted, PresentationLUTShape="INVERSE"), expected)
    # The DX modules state the one inversion twice.
    both = save_radiograph(tmp_path / "c.dcm", inverted, photometric="MONOCHROME1", PresentationLUTShape="INVERSE")
    same(both, expected)
    same(save_radiograph(tmp_path / "d.dcm", PresentationLUTShape="IDENTITY"), expected)
    with pytest.raises(AssertionError):
        same(save_radiograph(tmp_path / "e.dcm", inverted), expected)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_any_depth_of_bits_and_signed_values(tmp_path, expected, bits):
    top = 2**bits - 1
    same(save_radiograph(tmp_path / "a.dcm", film(top=top), bits=bits), expected, 1.5 / 255)
    lowered = film(top=top).astype(np.int64) - 2 ** (bits - 1)
    signed = save_radiograph(tmp_path / "b.dcm", lowered, bits=bits, signed=True)
    same(signed, expected, 1.5 / 255)


def test_bits_above_bits_stored_are_ignored(tmp_path, expected):
    scribbled = film().copy()
    scribbled[10:20, 10:20] |= 1 << 13
    same(save_radiograph(tmp_path / "a.dcm", scribbled), expected)


def test_rescale_and_window(tmp_path, expected):
    same(save_radiograph(tmp_path / "a.dcm", RescaleSlope=0.25, RescaleIntercept=-7), expected)
    low, high = 500, 2500  # a window is a clip: the ends become black and white
    windowed = save_radiograph(tmp_path / "b.dcm", WindowCenter=(low + high) / 2 + 0.5, WindowWidth=high - low + 1)
    clipped = save_radiograph(tmp_path / "c.dcm", np.clip(film(), low, high))
    same(windowed, displayed(clipped))
    # A window is in rescaled values, and MONOCHROME1 is inverted after it.
    rescaled = save_radiograph(tmp_path / "d.dcm", film() // 2, RescaleSlope=2, RescaleIntercept=0,
                               WindowCenter=(low + high) / 2 + 0.5, WindowWidth=high - low + 1)  # fmt: skip
    same(rescaled, displayed(clipped), 2e-3)


@pytest.mark.parametrize("shown", [255, 4095])
@pytest.mark.parametrize("first", [0, 300])
def test_voi_table_with_entries_of_8_and_of_12_bits(tmp_path, expected, first, shown):
    stored = (film() // 2 + 300).astype(np.uint16)
    values = np.clip(np.arange(first, first + 4096) - 300, 0, 2047)
    curve = np.rint((values / 2047.0) ** 2 * shown).astype(int)  # no window could do this
    path = save_radiograph(tmp_path / "a.dcm", stored, voi=(first, curve))
    wanted = save_radiograph(tmp_path / "b.dcm", np.rint((film() // 2 / 2047.0) ** 2 * 4095).astype(np.uint16))
    same(path, displayed(wanted), 1.0 / shown + 2e-3)


def test_for_processing_linear_becomes_attenuation(tmp_path):
    attenuation = film() / TOP * 3.0
    intensity = np.rint(60000 * np.exp(-attenuation)).astype(np.uint16)  # Beer-Lambert
    linear = {"intent": "FOR PROCESSING", "PixelIntensityRelationship": "LIN", "bits": 16}
    wanted = displayed(save_radiograph(tmp_path / "w.dcm"))
    bright_air = save_radiograph(tmp_path / "a.dcm", intensity, PixelIntensityRelationshipSign=1, **linear)
    same(bright_air, wanted, 2e-3)
    dark_air = save_radiograph(tmp_path / "b.dcm", 65535 - intensity.astype(int), PixelIntensityRelationshipSign=-1,
                               **linear)  # fmt: skip
    same(dark_air, wanted, 2e-3)
    unsigned = save_radiograph(tmp_path / "c.dcm", intensity, photometric="MONOCHROME1", **linear)
    same(unsigned, wanted, 2e-3)
    # FOR PRESENTATION is shown as it is, whatever was linear before.
    shown = save_radiograph(tmp_path / "d.dcm", PixelIntensityRelationship="LIN", PixelIntensityRelationshipSign=1)
    same(shown, wanted)
    logarithmic = save_radiograph(tmp_path / "e.dcm", TOP - film(), intent="FOR PROCESSING",
                                  PixelIntensityRelationship="LOG", PixelIntensityRelationshipSign=1)  # fmt: skip
    same(logarithmic, wanted)
    dead = intensity.copy()
    dead[5, 5] = 0  # no count at all: the logarithm would be infinite
    assert np.isfinite(
        displayed(save_radiograph(tmp_path / "f.dcm", dead, PixelIntensityRelationshipSign=1, **linear))
    ).all()


def stored_as(image, row, column):
    """How an upright image is stored with this Patient Orientation: computed by index, not by flips."""
    upright_axes = {"L": (1, 1), "R": (1, -1), "P": (1, 1), "A": (1, -1), "F": (0, 1), "H": (0, -1)}
    (row_axis, row_sign), (column_axis, column_sign) = upright_axes[row], upright_axes[column]
    height, width = image.shape
    shape = [0, 0]
    shape[1], shape[0] = image.shape[row_axis], image.shape[column_axis]
    out = np.empty(shape, image.dtype)
    for i, j in np.ndindex(*shape):
        place = [0, 0]
        place[row_axis] = j if row_sign > 0 else image.shape[row_axis] - 1 - j
        place[column_axis] = i if column_sign > 0 else image.shape[column_axis] - 1 - i
        out[i, j] = image[place[0], place[1]]
    return out


@pytest.mark.parametrize(
    ("row", "column"), [p for p in product("LRAPFH", repeat=2) if (p[0] in "FH") != (p[1] in "FH")], ids="".join
)
def test_patient_orientation_decides_turns_and_flips(tmp_path, expected, row, column):
    image = film()
    stored = stored_as(image, row, column)
    view = "LL" if {row, column} & set("AP") else "PA"
    options = {"orientation": (row, column), "ImagerPixelSpacing": [0.2, 0.1]}
    path = save_radiograph(tmp_path / "a.dcm", stored, view=view, **options)
    same(path, expected, 1e-6)
    transposed = row in "FH"
    assert read_dicom_xray(path).spacing == ((0.1, 0.2) if transposed else (0.2, 0.1))


def test_without_a_sensible_orientation_nothing_is_turned():
    image = np.arange(6).reshape(2, 3)
    for value in (None, "", ["L"], ["L", "L"], ["F", "H"], ["X", "Y"], "LF", ["A", "P"], ["P", "L"]):
        turned, notes = upright(image, value)
        assert (turned == image).all() and "taken as displayed" in notes[-1]
    turned, _ = upright(image, ["RH", "FL"])  # oblique: the principal letter counts
    assert (turned == image[:, ::-1]).all()


@pytest.mark.parametrize("orientation", [("A", "F"), ("P", "F"), ("F", "A")])
def test_an_orientation_that_contradicts_a_frontal_turns_nothing(orientation):
    image = np.arange(6).reshape(2, 3)
    turned, notes = upright(image, orientation, "PA")
    assert (turned == image).all() and notes == ["Patient Orientation contradicts the view PA: taken as displayed"]


def test_a_lateral_is_displayed_as_it_is_rendered_with_its_front_at_column_0(tmp_path):
    hu = torch.full((24, 24, 24), -1000.0)
    hu[2:22, 2:22, 8:16] = 0.0
    hu[4:8, 2:5, 8:16] = 800.0  # dense, low and in front
    rendered = render_xray(hu, (8.0, 8.0, 8.0), view_pose((192.0,) * 3, "lateral")[None], (64, 64))[0].numpy()
    row, column = np.unravel_index(rendered.argmax(), rendered.shape)
    assert row > 40 and column < 24
    turns = {"PF": (), "AF": ("front and back exchanged",), "PH": ("turned upside down",),
             "FA": ("rows and columns exchanged", "front and back exchanged")}  # fmt: skip
    for axes, notes in turns.items():
        stored = stored_as(np.rint(rendered * TOP).astype(np.uint16), *axes)
        path = save_radiograph(tmp_path / "a.dcm", stored, view="LL", orientation=axes)
        np.testing.assert_allclose(displayed(path), rendered, atol=0.01)
        assert read_dicom_xray(path).notes == list(notes)


@pytest.mark.parametrize(
    ("tags", "view"),
    [
        ({"view": "PA"}, "PA"),
        ({"view": "AP"}, "AP"),
        ({"view": "AP "}, "AP"),
        ({"view": "LL"}, "lateral"),
        ({"view": "RLD"}, "other"),
        ({"view": "LAO"}, "other"),
        ({"view": "PA OBLIQUE"}, "other"),
        ({"view": "AP LORDOTIC"}, "other"),
        ({"view": "LORDOTIC", "orientation": ("P", "F")}, "other"),
        ({"view": ""}, ""),
        ({"view": "", "SeriesDescription": "W033 Chest PA"}, "PA"),
        ({"view": "", "SeriesDescription": "CHEST LAT"}, "lateral"),
        ({"view": "", "SeriesDescription": "PA / LAT"}, ""),
        ({"view": "", "StudyDescription": "CHEST PA"}, ""),
        ({"view": "", "SeriesDescription": "PATIENT APPLE"}, ""),
        ({"view": "", "orientation": ("P", "F")}, "lateral"),
        ({"view": "", "orientation": ("A", "F")}, "lateral"),
        ({"view": "PA", "SeriesDescription": "CHEST LAT"}, "PA"),
    ],
)
def test_the_view(tmp_path, tags, view):
    assert view_of(pydicom.dcmread(save_radiograph(tmp_path / "a.dcm", **tags))) == view


def test_the_view_code_decides_where_view_position_does_not(tmp_path):
    item = pydicom.Dataset()
    item.CodeValue = "399348003"  # SNOMED CT: antero-posterior projection
    path = save_radiograph(tmp_path / "a.dcm", view="", ViewCodeSequence=[item], SeriesDescription="chest pa")
    assert view_of(pydicom.dcmread(path)) == "AP"


def test_a_lateral_is_no_frontal_film_unless_it_is_asked_for(tmp_path):
    path = save_radiograph(tmp_path / "a.dcm", view="LL", orientation=("P", "F"))
    with pytest.raises(UserError, match="lateral"):
        read_xray(path, SIZE)
    assert read_xray(path, SIZE, lateral=True).shape == SIZE


def test_an_oblique_is_neither_a_frontal_nor_a_lateral(tmp_path):
    path = save_radiograph(tmp_path / "a.dcm", view="LAO")
    for lateral, remedy in ((False, "frontal chest"), (True, "lateral")):
        with pytest.raises(UserError, match=f"a.dcm: an oblique, decubitus or lordotic view; give a {remedy} X-ray"):
            read_xray(path, SIZE, lateral)


def test_padding_is_unknown_and_does_not_count(tmp_path, expected):
    stored = film(top=4000)
    stored[:6], stored[:, :5] = 4095, 4095
    padded = displayed(save_radiograph(tmp_path / "a.dcm", stored, PixelPaddingValue=4095, photometric="MONOCHROME1"))
    assert np.isnan(padded[:6]).all() and np.isnan(padded[:, :5]).all()
    alone = displayed(save_radiograph(tmp_path / "b.dcm", stored[6:, 5:], photometric="MONOCHROME1"))
    np.testing.assert_allclose(padded[6:, 5:], alone, atol=1e-3)


def test_spacing_is_that_of_the_detector(tmp_path):
    path = save_radiograph(tmp_path / "a.dcm", ImagerPixelSpacing=[0.14, 0.15], PixelSpacing=[0.1, 0.1])
    assert read_dicom_xray(path).spacing == (0.14, 0.15)
    assert read_dicom_xray(save_radiograph(tmp_path / "b.dcm", PixelSpacing=[0, 0])).spacing is None
    assert read_dicom_xray(save_radiograph(tmp_path / "c.dcm")).spacing is None


def test_what_is_no_single_grey_image_is_refused(tmp_path):
    several = save_radiograph(tmp_path / "a.dcm", np.concatenate([film(), film()]), Rows=80, NumberOfFrames=2)
    colour = save_radiograph(tmp_path / "b.dcm", photometric="RGB", SamplesPerPixel=3)
    none = save_radiograph(tmp_path / "c.dcm", PixelData=None)
    for path, word in ((several, "2 frames"), (colour, "RGB"), (none, "without pixel data")):
        with pytest.raises(UserError, match=word) as caught:
            read_dicom_xray(path)
        assert str(path) in str(caught.value) and "; " in str(caught.value)


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "OT", "", None])
def test_another_modality_is_an_error(tmp_path, modality):
    """A slice of a CT is a grey image as well: a model would make a patient of it."""
    path = save_radiograph(tmp_path / "a.dcm", Modality=modality, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    with pytest.raises(UserError, match=f"Modality {modality or 'missing'} where an X-ray has") as caught:
        read_xray(path)
    assert str(path) in str(caught.value)
    for known in MODALITIES:
        path = save_radiograph(tmp_path / "b.dcm", Modality=known, SOPClassUID=None)
        assert read_xray(path, SIZE).shape == SIZE
    path = save_radiograph(tmp_path / "c.dcm", Modality=modality)  # its SOP class says what it is
    assert read_xray(path, SIZE).shape == SIZE


def test_burned_in_is_reported(tmp_path):
    assert read_dicom_xray(save_radiograph(tmp_path / "a.dcm", BurnedInAnnotation="YES")).burned_in
    assert not read_dicom_xray(save_radiograph(tmp_path / "b.dcm", BurnedInAnnotation="NO")).burned_in
    with pytest.raises(UserError, match="Burned In Annotation is YES.*mask_text=true"):
        read_xray(tmp_path / "a.dcm")
    assert read_xray(tmp_path / "b.dcm", SIZE).shape == SIZE
    scanned = read_dicom_xray(save_radiograph(tmp_path / "c.dcm", ConversionType="DF"))  # digitised film
    assert any("look for text" in note for note in scanned.notes)


@pytest.fixture(scope="module")
def samples():
    """Files of the package pydicom-data, among them a chest radiograph of a real patient."""
    data_store = pytest.importorskip("data_store", reason="pip install pydicom-data for a real radiograph")
    from pathlib import Path

    return SimpleNamespace(folder=Path(data_store.__file__).parent / "data")


def test_a_real_film_shows_the_heart_on_the_right_of_the_image(samples):
    path = samples.folder / "RG1_UNCR.dcm"  # MONOCHROME1, window, Patient Orientation L\F, PA
    found = read_dicom_xray(path)
    assert found.view == "PA" and "inverted to bright bone" in found.notes
    image = read_xray(path, (128, 128)).numpy()
    assert image[30:100, 60:68].mean() > image[30:80, 20:50].mean() + 0.1  # the spine is brighter than the lung
    heart = image[80:90]  # just above the diaphragm the heart reaches further to the patient's left
    assert heart[:, 75:88].mean() > heart[:, 40:53].mean() + 0.05


def test_compressed_pixels_are_the_same_image(samples):
    plain = read_xray(samples.folder / "RG1_UNCR.dcm", (64, 64))
    lossless = read_xray(samples.folder / "RG1_J2KR.dcm", (64, 64))
    torch.testing.assert_close(plain, lossless, atol=1e-5, rtol=0, equal_nan=True)


def test_a_transfer_syntax_without_decoder_in_pydicom_goes_through_gdcm(samples, tmp_path):
    header = pydicom.dcmread(samples.folder / "JPGLosslessP14SV1_1s_1f_8b.dcm")
    header.Modality = "DX"  # an ultrasound is refused
    header.save_as(path := tmp_path / "a.dcm")
    found = read_dicom_xray(path)
    assert found.image.shape == (768, 1024) and len(np.unique(found.image)) > 20


@pytest.mark.parametrize("width", [0, 0.5, [0, 100]])
def test_a_window_that_cannot_be_is_as_absent(tmp_path, width):
    plain = read_xray(save_radiograph(tmp_path / "plain.dcm"))
    with_window = save_radiograph(
        tmp_path / "window.dcm", WindowCenter=[50, 60] if width == [0, 100] else 50, WindowWidth=width
    )
    torch.testing.assert_close(read_xray(with_window), plain, equal_nan=True, rtol=0, atol=0)


def test_an_empty_photometric_interpretation_is_named(tmp_path):
    path = save_radiograph(tmp_path / "a.dcm", photometric="")
    with pytest.raises(UserError, match="Photometric Interpretation is empty, so black and white may be exchanged"):
        read_xray(path)


def test_a_film_without_preamble_is_read(tmp_path, expected):
    path = save_radiograph(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[132:])
    same(path, expected)
