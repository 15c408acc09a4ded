"""Radiographs are found by their headers, and a prepared image equals the one that generation reads."""

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import write_ct_series
from PIL import Image, ImageDraw
from radiograph_files import TIME, film, save_radiograph

from common.errors import UserError
from dataset.io.xray import read_xray, read_xray_image
from dataset.preparation.borders_and_text import mask_text, text_lines, trim_border
from dataset.preparation.radiographs import find_radiographs, read_radiograph, write_radiograph


def lettered(width=512, height=600, text="DOE JOHN 1957-03-12", at=(30, 20), scale=2):
    """A radiograph with a line of white letters, the mask of the letters, and the radiograph without them."""
    picture = Image.fromarray(film(height, width).astype(np.int32), "I")
    letters = Image.new("L", (8 * len(text), 14))
    ImageDraw.Draw(letters).text((1, 1), text, fill=255)
    letters = letters.resize((letters.width * scale, letters.height * scale))
    letters = letters.crop((0, 0, min(letters.width, width - at[0]), letters.height))
    image, mask = np.asarray(picture).astype(np.float32), np.zeros((height, width), bool)
    mask[at[1] : at[1] + letters.height, at[0] : at[0] + letters.width] = np.asarray(letters) > 100
    return np.where(mask, 4095, image).astype(np.float32), mask, image


def test_headers_give_patient_time_view_and_sex(tmp_path):
    save_radiograph(tmp_path / "a" / "x.dcm", patient=" 77 ", view="AP", accession="A9", sex="M")
    save_radiograph(tmp_path / "b" / "no_ending", view="LL", time=None)
    (one, other) = find_radiographs(tmp_path)
    first = one.identity
    assert (first.patient, first.accession, first.time, first.sex) == ("77", "A9", TIME, "M")
    assert (one.view, other.view, other.identity.time) == ("AP", "lateral", None) and other.identity.study_uid
    header = pydicom.dcmread(tmp_path / "a" / "x.dcm")
    assert (first.study_uid, first.series_uid) == (header.StudyInstanceUID, header.SeriesInstanceUID)


def test_only_radiographs_are_found(tmp_path):
    save_radiograph(tmp_path / "x.dcm")
    write_ct_series(tmp_path / "ct", np.zeros((5, 8, 8)))
    Image.fromarray((film() >> 4).astype(np.uint8)).save(tmp_path / "p.png")
    np.save(tmp_path / "flat.npy", film().astype(np.float32))
    np.save(tmp_path / "latent.npy", np.zeros((4, 8, 8, 16), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object))
    (tmp_path / "notes.txt").write_text("Name^PAT-1")
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"rubbish")
    (tmp_path / ".hidden.png").touch()
    found = find_radiographs(tmp_path)
    assert [one.path.name for one in found] == ["flat.npy", "p.png", "x.dcm"]
    assert [one.identity.patient for one in found] == ["", "", "PAT-1"]
    (tmp_path / "made").mkdir()
    save_radiograph(tmp_path / "made" / "y.dcm")
    assert len(find_radiographs(tmp_path)) == 4 and len(find_radiographs(tmp_path, exclude=[tmp_path / "made"])) == 3


def test_other_body_parts_are_listed(tmp_path):
    save_radiograph(tmp_path / "a.dcm", body_part="HAND")
    save_radiograph(tmp_path / "b.dcm", body_part="PORT CHEST")
    save_radiograph(tmp_path / "c.dcm", body_part="")
    assert [bool(one.problem) for one in find_radiographs(tmp_path)] == [True, False, False]


def test_the_same_image_twice_counts_once(tmp_path):
    save_radiograph(tmp_path / "a.dcm", uid="1.2.3.4.5.6")
    save_radiograph(tmp_path / "again" / "b.dcm", uid="1.2.3.4.5.6")
    assert [one.path.name for one in find_radiographs(tmp_path)] == ["a.dcm"]


def test_of_one_exposure_the_version_for_presentation_is_kept(tmp_path):
    raw = {"intent": "FOR PROCESSING", "PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": 1}
    source = pydicom.Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1.1", "1.2.3.4.5.7"
    save_radiograph(tmp_path / "raw1.dcm", uid="1.2.3.4.5.7", **raw)
    save_radiograph(tmp_path / "shown1.dcm", SourceImageSequence=[source])
    save_radiograph(tmp_path / "raw2.dcm", IrradiationEventUID="1.2.3.4.9", **raw)
    save_radiograph(tmp_path / "shown2.dcm", IrradiationEventUID="1.2.3.4.9")
    save_radiograph(tmp_path / "raw3.dcm", **raw)  # without a version for presentation
    assert [one.path.name for one in find_radiographs(tmp_path)] == ["raw3.dcm", "shown1.dcm", "shown2.dcm"]


@pytest.mark.parametrize("options", [{}, {"photometric": "MONOCHROME1"}, {"orientation": ("R", "F")}])
def test_a_prepared_image_reads_like_its_source(tmp_path, options):
    source = save_radiograph(tmp_path / "a.dcm", **options)
    prepared = read_radiograph(source)
    assert prepared.image.dtype == np.float32 and prepared.image.min() == 0 and prepared.image.max() == 1
    write_radiograph(prepared.image, tmp_path / "a.png")
    written = Image.open(tmp_path / "a.png")
    assert written.mode.startswith("I") and not written.info
    torch.testing.assert_close(
        read_xray(tmp_path / "a.png", (40, 40)), read_xray(source, (40, 40)), atol=2 / 65535, rtol=0, equal_nan=True
    )


def test_a_prepared_image_keeps_what_was_not_exposed(tmp_path):
    stored = film()
    stored[:7], stored[:, -9:] = 4095, 4095
    source = save_radiograph(tmp_path / "a.dcm", stored, PixelPaddingValue=4095)
    prepared = read_radiograph(source)
    write_radiograph(prepared.image, tmp_path / "a.png")
    again = read_xray_image(tmp_path / "a.png")
    assert np.array_equal(again.inside, ~np.isnan(prepared.image)) and 0 < again.inside.mean() < 1
    whole = read_radiograph(tmp_path / "a.png").image
    np.testing.assert_allclose(whole, prepared.image, atol=3 / 65535)


def test_a_normalised_array_of_x_ray2ctpa_is_the_same_image(tmp_path):
    """Its files hold (x - 0.633) / 0.181 three times: the common grey scale undoes any shift and factor."""
    Image.fromarray((film() >> 4).astype(np.uint8)).save(tmp_path / "a.png")
    grey = (film() >> 4).astype(np.float32) / 255
    np.save(tmp_path / "a.npy", np.stack([(grey - 0.633) / 0.181] * 3))
    np.save(tmp_path / "b.npy", grey)
    wanted = read_radiograph(tmp_path / "a.png").image
    for name in ("a.npy", "b.npy"):
        np.testing.assert_allclose(read_radiograph(tmp_path / name).image, wanted, atol=1e-4)
    np.save(tmp_path / "c.npy", np.stack([grey, grey, 1 - grey]))
    np.save(tmp_path / "d.npy", np.array([{}, []], dtype=object))
    for name, word in (("c.npy", "colour"), ("d.npy", "array of numbers")):
        with pytest.raises(UserError, match=word):
            read_radiograph(tmp_path / name)


@pytest.mark.parametrize("view", ["LL", "LAO"])
def test_a_lateral_is_refused_unless_its_view_is_assigned(tmp_path, view):
    path = save_radiograph(tmp_path / "a.dcm", view=view)
    with pytest.raises(UserError, match="lateral"):
        read_radiograph(path)
    assert read_radiograph(path, view="PA").view == "PA"  # corrects a wrong header
    plain = read_radiograph(path, view="PA").image
    turned = save_radiograph(tmp_path / "b.dcm", view=view, orientation=("A", "F"))
    assigned = read_radiograph(turned, view="PA")  # of a frontal, whose orientation is wrong too: as stored
    assert np.array_equal(assigned.image, plain) and "front and back exchanged" not in assigned.notes


def test_burned_in_annotation_is_refused_unless_masked(tmp_path):
    stored, _, _ = lettered()
    path = save_radiograph(tmp_path / "a.dcm", stored, BurnedInAnnotation="YES")
    with pytest.raises(UserError, match="Burned In Annotation"):
        read_radiograph(path)
    assert "places with text masked" in " ".join(read_radiograph(path, mask_text=True).notes)
    clean = save_radiograph(tmp_path / "b.dcm", film(600, 512), BurnedInAnnotation="YES")
    with pytest.raises(UserError, match="no text was found"):  # the header declares text: masking has failed
        read_radiograph(clean, mask_text=True)
    read_radiograph(save_radiograph(tmp_path / "c.dcm", BurnedInAnnotation="NO"))


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("at", [(30, 10), (250, 560)])
def test_masking_removes_letters_and_leaves_the_rest(at, scale):
    image, letters, clean = lettered(text="DOE JOHN 12", at=(at[0], min(at[1], 600 - 14 * scale)), scale=scale)
    found = text_lines(image)
    legible = letters & (image - clean > 0.05 * 4095)  # white on the white spine is not legible
    assert (found & legible).sum() >= 0.99 * legible.sum() > 0
    masked, count = mask_text(image)
    assert count >= 1 and found.mean() < 0.1
    assert (masked[~found] == image[~found]).all()
    assert (np.abs(masked - image)[legible] > 0.02 * 4095).mean() > 0.97


def test_masking_does_not_change_an_image_without_letters(real_data):
    for path in sorted((real_data / "xray").glob("hannover*.png"))[:3]:
        image = np.asarray(Image.open(path).convert("F"))
        assert text_lines(image).mean() < 0.01


def test_only_borders_are_cut():
    image, _, clean = lettered(width=200, height=240, text="L", at=(5, 5), scale=1)
    framed = np.full((300, 260), 4095.0, np.float32)  # a white frame with burned-in letters
    framed[40:280, 20:220] = clean
    letters, mask, _ = lettered(width=260, height=300, text="ROOM 3", at=(100, 8), scale=1)
    framed[mask] = 0
    rows, columns = trim_border(framed)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (40, 280, 20, 220)
    rows, columns = trim_border(clean)
    assert (rows, columns) == (slice(0, 240), slice(0, 200))
    half = np.full((240, 200), 100.0, np.float32)  # too wide for a border
    half[:, 120:] = clean[:, 120:]
    assert trim_border(half)[1].start == 0


def test_borders_are_cut_before_the_grey_scale(tmp_path):
    framed = np.full((120, 100), 4095)
    framed[20:100, 18:82] = film(top=3000)
    path = save_radiograph(tmp_path / "a.dcm", framed)
    trimmed = read_radiograph(path, trim_border=True)
    alone = read_radiograph(save_radiograph(tmp_path / "b.dcm", film(top=3000)))
    np.testing.assert_allclose(trimmed.image, alone.image, atol=1e-6)
    assert any("borders cut off" in note for note in trimmed.notes)


def test_a_header_with_an_invalid_value_is_listed(tmp_path):
    path = save_radiograph(tmp_path / "a.dcm")
    save_radiograph(tmp_path / "b.dcm")
    ds = pydicom.dcmread(path)
    ds.add_new("SourceImageSequence", "LO", "no sequence")
    pydicom.dcmwrite(path, ds)
    assert [one.problem for one in find_radiographs(tmp_path)] == ["unreadable header", ""]
