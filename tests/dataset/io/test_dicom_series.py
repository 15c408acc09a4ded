"""The search separates CT series by their headers and excludes other slices."""

from datetime import datetime

import numpy as np
import pydicom
import pytest
from chest_files import save_nifti, thorax
from dicom_files import rotation_about, write_ct_series, write_enhanced_ct

from dataset.io.dicom_headers import time_of
from dataset.io.dicom_series import find_ct_series

HU = thorax(size=(6, 8, 10))


def one(folder, **options):
    return find_ct_series(write_ct_series(folder, HU, **options))[0]


def test_scattered_slices_are_one_series_and_neighbours_in_a_folder_are_two(tmp_path):
    write_ct_series(tmp_path / "a", HU, series_uid="1.2.3", prefix="A")
    write_ct_series(tmp_path / "a", HU, series_uid="1.2.4", prefix="B")  # interleaved in the listing
    for path in sorted((tmp_path / "a").glob("A*"))[::2]:
        (tmp_path / "deep" / "er").mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "deep" / "er" / path.name.removesuffix(".dcm"))
    (tmp_path / "a" / "notes.txt").write_text("no DICOM")
    (tmp_path / "a" / "broken.dcm").write_bytes(b"\0" * 200)
    save_nifti(tmp_path / "b.nii.gz", HU)
    found = find_ct_series(tmp_path)
    assert [(s.identity.series_uid, len(s.slices), s.dropped, s.left_out) for s in found] == [
        ("1.2.3", 6, "", ""), ("1.2.4", 6, "", "")]  # fmt: skip
    assert (np.diff(found[0].heights) > 0).all() and found[0].coverage == pytest.approx(30.0)


def test_headers_have_the_values_for_ranking_and_pairing(tmp_path):
    found = one(tmp_path, patient=" P7 ", accession="A9", time=datetime(2020, 1, 2, 3, 4, 5), contrast="OMNI",
                kernel="B40f", thickness=1.25, image_type=("DERIVED", "SECONDARY", "mip"), sex="m",
                series_uid="1.2.9", study_uid="1.2.8")  # fmt: skip
    assert (found.identity.patient, found.identity.accession, found.identity.time, found.acquisition.contrast) == (
        "P7", "A9", datetime(2020, 1, 2, 3, 4, 5), "OMNI")  # fmt: skip
    assert (
        *(getattr(found.acquisition, n) for n in ("kernel", "thickness")),
        found.acquisition.image_type[-1],
        found.identity.sex,
    ) == ("B40f", 1.25, "MIP", "M")
    assert (found.identity.study_uid, found.key) == ("1.2.8", "1.2.9")


def test_localisers_copies_and_slices_of_another_layout_are_excluded_and_counted(tmp_path):
    write_ct_series(tmp_path, HU, series_uid="1.2.3")
    write_ct_series(tmp_path, HU[:1, :, :4], series_uid="1.2.3", prefix="SCOUT", image_type=("ORIGINAL", "LOCALIZER"))
    write_ct_series(tmp_path, HU[:2], series_uid="1.2.3", prefix="COR", rotation=rotation_about("x", 90))
    write_ct_series(tmp_path, HU[:2], series_uid="1.2.3", prefix="RGB", extra={"SamplesPerPixel": 3})
    first = next(tmp_path.glob("IM*"))
    (tmp_path / "copy.dcm").write_bytes(first.read_bytes())
    (found,) = find_ct_series(tmp_path)
    assert len(found.slices) == 6
    assert found.left_out == (
        "2 × colour image, 1 × localiser, 1 × copy of a slice, 2 × slice of another orientation or size"
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localiser"),
        ({"extra": {"SamplesPerPixel": 3}}, "colour image (6 images)"),
        ({"extra": {"BurnedInAnnotation": "YES"}}, "burned-in"),
        ({"skip": (0, 1, 2)}, "too few"),
        ({"extra": {"ImageOrientationPatient": None}}, "no position, orientation or pixel spacing"),
        ({"extra": {"ImagePositionPatient": [0.0, 0.0, 5.0]}}, "bolus tracking: 6 images at 1 place"),
    ],
)
def test_a_series_that_is_no_volume_is_dropped_with_a_reason(tmp_path, options, reason):
    assert reason in one(tmp_path, **options).dropped


def test_other_modalities_are_ignored(tmp_path):
    write_ct_series(tmp_path, HU, modality="MR")
    assert find_ct_series(tmp_path) == []


def test_two_acquisitions_under_one_uid_are_two_stacks(tmp_path):
    write_ct_series(tmp_path, HU, series_uid="1.2.3", prefix="A", acquisition=1)
    write_ct_series(tmp_path, HU, series_uid="1.2.3", prefix="B", acquisition=2)
    found = find_ct_series(tmp_path)
    assert [(s.key, len(s.slices)) for s in found] == [("1.2.3#1", 6), ("1.2.3#2", 6)]


def test_one_stack_of_several_acquisitions_stays_one(tmp_path):
    write_ct_series(tmp_path, HU, series_uid="1.2.3", skip=(3, 4, 5), prefix="A", acquisition=1)
    write_ct_series(tmp_path, HU, series_uid="1.2.3", skip=(0, 1, 2), prefix="B", acquisition=2)
    (found,) = find_ct_series(tmp_path)
    assert len(found.slices) == 6


def test_the_header_is_that_of_a_slice_of_the_stack_not_of_the_first_file(tmp_path):
    same = {"series_uid": "1.2.3", "study_uid": "1.2"}
    write_ct_series(tmp_path, HU[:2], prefix="A", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), thickness=6.0,
                    contrast="OMNI", description="Topogram", **same)  # fmt: skip
    write_ct_series(tmp_path, HU[:2], prefix="B", rotation=rotation_about("x", 90), thickness=5.0, kernel="B70f",
                    description="coronal", **same)  # fmt: skip
    write_ct_series(tmp_path, HU, prefix="M", contrast="", thickness=1.25, kernel="B30f", description="chest", **same)
    (found,) = find_ct_series(tmp_path)
    assert tuple(getattr(found.acquisition, n) for n in ("thickness", "kernel", "contrast", "description")) == (
        1.25,
        "B30f",
        "",
        "chest",
    )
    assert "LOCALIZER" not in found.acquisition.image_type


def unreadable(path, keyword):
    """Writes a value that is no number where one must stand."""
    ds = pydicom.dcmread(path)
    setattr(ds, keyword, 7.25)
    pydicom.dcmwrite(path, ds)
    data = path.read_bytes()
    assert data.count(b"7.25") == 1
    path.write_bytes(data.replace(b"7.25", b"xxxx"))


@pytest.mark.parametrize("keyword", ["SliceThickness", "GantryDetectorTilt"])
def test_an_unreadable_header_is_listed(tmp_path, keyword):
    write_ct_series(tmp_path / "good", HU, series_uid="1.2.1")
    for path in write_ct_series(tmp_path / "bad", HU, series_uid="1.2.2").iterdir():
        unreadable(path, keyword)
    write_ct_series(tmp_path / "one", HU, series_uid="1.2.3", thickness=2.5)
    unreadable(min((tmp_path / "one").iterdir()), keyword)  # the others of its kind speak for it
    found = find_ct_series(tmp_path)
    assert [(one.identity.series_uid, one.dropped) for one in found] == [
        ("1.2.1", ""), ("1.2.2", "unreadable header (6 images)"), ("1.2.3", "")]  # fmt: skip
    assert len(found[2].slices) == 6 and found[2].acquisition.thickness == 2.5


def test_damaged_modality_or_uid_is_ignored(tmp_path):
    write_ct_series(tmp_path / "good", HU, series_uid="1.2.1")
    strange = min(write_ct_series(tmp_path / "bad", HU[:2], series_uid="1.2.2").iterdir())
    data = strange.read_bytes()
    assert data.count(b"\x08\x00\x60\x00CS") == 1
    strange.write_bytes(data.replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00C\x00"))  # no known type of value
    twofold = min(write_ct_series(tmp_path / "two", HU[:2], series_uid="1.2.3").iterdir())
    ds = pydicom.dcmread(twofold)
    ds.add_new("Rows", "US", [8, 8])
    pydicom.dcmwrite(twofold, ds)
    found = find_ct_series(tmp_path)
    assert [(one.identity.series_uid, len(one.slices), one.left_out) for one in found] == [
        ("1.2.1", 6, ""), ("1.2.2", 1, ""), ("1.2.3", 1, "1 × unreadable header")]  # fmt: skip


def test_a_multiframe_file_is_a_series_with_a_slice_for_each_frame(tmp_path):
    write_enhanced_ct(tmp_path / "one.dcm", HU, series_uid="1.2.3")
    (found,) = find_ct_series(tmp_path)
    assert len(found.files) == 1 and len(found.slices) == 6 and found.coverage == pytest.approx(30.0)


def test_excluded_folders_and_link_loops_are_not_entered(tmp_path):
    write_ct_series(tmp_path / "in", HU)
    write_ct_series(tmp_path / "out", HU)
    (tmp_path / "in" / "again").symlink_to(tmp_path)
    assert len(find_ct_series(tmp_path, exclude=[tmp_path / "out"])) == 1


def test_a_date_without_a_time_is_unknown():
    ds = pydicom.Dataset()
    ds.StudyDate = "20200102"
    assert time_of(ds) is None
    ds.StudyTime = "0304"
    assert time_of(ds) == datetime(2020, 1, 2, 3, 4)
    ds.AcquisitionDateTime = "20200102112233.5+0100"
    assert time_of(ds) == datetime(2020, 1, 2, 11, 22, 33)
