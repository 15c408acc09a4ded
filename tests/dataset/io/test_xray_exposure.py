"""What the header of a radiograph states as not exposed is not in the picture; elements without value say nothing."""

import numpy as np
import pydicom
import pytest
from chest_files import thorax
from dicom_files import write_ct_series
from pydicom.dataset import Dataset
from radiograph_files import film, save_radiograph

from dataset.io.ct import read_volume
from dataset.io.xray import read_xray, read_xray_image

HEIGHT, WIDTH = film().shape
ROW, COLUMN = np.mgrid[1 : HEIGHT + 1, 1 : WIDTH + 1]
FRAMES = {
    "RECTANGULAR": (
        (COLUMN >= 5) & (COLUMN <= 58) & (ROW >= 7) & (ROW <= 70),
        {"LeftVerticalEdge": 5, "RightVerticalEdge": 58, "UpperHorizontalEdge": 7, "LowerHorizontalEdge": 70},
    ),
    "CIRCULAR": ((ROW - 40) ** 2 + (COLUMN - 33) ** 2 <= 30**2, {"Centre": [40, 33], "Radius": 30}),
    "POLYGONAL": (  # a rhombus
        np.abs(ROW - 40) / 35 + np.abs(COLUMN - 32) / 30 <= 1,
        {"Vertices": [5, 32, 40, 62, 75, 32, 40, 2]},
    ),
}
NAMES = {"Centre": "CenterOfCircular{}", "Radius": "RadiusOfCircular{}", "Vertices": "VerticesOfThePolygonal{}"}


def tags_of(what, shape):
    inside, values = FRAMES[shape]
    names = {NAMES[name].format(what) if name in NAMES else f"{what}{name}": value for name, value in values.items()}
    return inside, {f"{what}Shape": shape, **names}


@pytest.mark.parametrize("shape", FRAMES)
@pytest.mark.parametrize("what", ["Shutter", "Collimator"])
@pytest.mark.parametrize("covered", [0, 4095])
def test_shutter_and_collimator(tmp_path, what, shape, covered):
    inside, tags = tags_of(what, shape)
    stored = np.where(inside, film(), covered)
    found = read_xray_image(save_radiograph(tmp_path / "a.dcm", stored, **tags))
    differing = found.inside != inside
    assert differing.sum() <= (0 if shape != "POLYGONAL" else 150)  # pixels on the border of the rhombus
    assert not differing[(ROW > 35) & (ROW < 45) & (COLUMN > 10) & (COLUMN < 54)].any()
    if shape == "RECTANGULAR":  # as the same frame given as padding
        padded = save_radiograph(tmp_path / "b.dcm", np.where(inside, film(top=3900), 4000), PixelPaddingValue=4000)
        shuttered = save_radiograph(tmp_path / "c.dcm", np.where(inside, film(top=3900), 4000), **tags)
        assert np.array_equal(read_xray(padded), read_xray(shuttered), equal_nan=True)


def test_several_shapes_cover_together_and_turn_with_the_picture(tmp_path):
    (box, box_tags), (circle, circle_tags) = tags_of("Shutter", "RECTANGULAR"), tags_of("Shutter", "CIRCULAR")
    tags = {**box_tags, **circle_tags, "ShutterShape": ["RECTANGULAR", "CIRCULAR"]}
    path = save_radiograph(tmp_path / "a.dcm", film(), orientation=("R", "F"), **tags)
    assert np.array_equal(read_xray_image(path).inside, (box & circle)[:, ::-1])


@pytest.mark.parametrize("edges", [(1, WIDTH), (60, 5), (200, 300), (-184, 5)])
def test_a_shutter_that_covers_nothing_or_all_is_ignored(tmp_path, edges):
    tags = {"ShutterLeftVerticalEdge": edges[0], "ShutterRightVerticalEdge": edges[1]}
    found = read_xray_image(save_radiograph(tmp_path / "a.dcm", film(), ShutterShape="RECTANGULAR", **tags))
    assert found.inside is None


EMPTY = {
    "slope": {"RescaleSlope": "", "RescaleIntercept": ""},
    "blank": {"RescaleSlope": " ", "RescaleIntercept": "  "},
    "padding": {"PixelPaddingValue": ""},
    "range": {"PixelPaddingRangeLimit": ""},
    "voi": {"VOILUTSequence": [Dataset()]},
    "voi without items": {"VOILUTSequence": []},
    "modality lut": {"ModalityLUTSequence": [Dataset()]},
    "window": {"WindowCenter": "", "WindowWidth": ""},
    "frames": {"NumberOfFrames": ""},
    "shutter": {"ShutterShape": "", "CollimatorShape": ""},
    "polarity": {"PresentationLUTShape": "", "PixelIntensityRelationship": ""},
    "bits": {"HighBit": None},
    "view codes": {"ViewCodeSequence": [Dataset()], "ViewPosition": ""},
}


@pytest.mark.parametrize("case", EMPTY)
def test_an_element_without_value_is_absent(tmp_path, case):
    plain = read_xray(save_radiograph(tmp_path / "plain.dcm", film()))
    shown = read_xray(save_radiograph(tmp_path / "a.dcm", film(), **EMPTY[case]))
    assert np.array_equal(plain, shown, equal_nan=True)


CT_EMPTY = {
    "thickness": {"SliceThickness": "", "GantryDetectorTilt": ""},
    "acquisition": {"AcquisitionNumber": "", "ConvolutionKernel": "", "TemporalPositionIdentifier": ""},
    "patient": {"PatientID": "", "PatientAge": "", "StudyDate": "", "AcquisitionTime": ""},
}


@pytest.mark.parametrize("case", CT_EMPTY)
def test_an_element_without_value_is_absent_in_ct(tmp_path, case):
    hu = thorax(size=(8, 12, 14))
    folder = write_ct_series(tmp_path, hu)
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        for name, value in CT_EMPTY[case].items():
            setattr(ds, name, value)
        pydicom.dcmwrite(path, ds)
    assert np.abs(read_volume(folder).hu - hu).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_modality_table_of_any_depth(tmp_path, bits):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4096, 0, bits], "US"
    table.add_new("LUTData", "US", [int(v) for v in np.linspace(0, 2**bits - 1, 4096)])
    found = read_xray(save_radiograph(tmp_path / "a.dcm", film(), ModalityLUTSequence=[table]))
    plain = read_xray(save_radiograph(tmp_path / "b.dcm", film()))
    np.testing.assert_allclose(found, plain, atol=2.0 / 255)
