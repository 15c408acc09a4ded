"""Lesions drawn into CTs: each changes its place alone, and a folder without test CTs of its own kind is refused."""

import numpy as np
import pytest
import torch
from chest_files import save_nifti, thorax
from folder_sources import film, source
from scipy.ndimage import label

from common.errors import UserError
from dataset.cases.store import prepare_cases, read_case
from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.volume import Volume
from dataset.manifest.table import make_rows, write_manifest
from dataset.phantom.lesions import EFFUSION, HALF, HEALTHY, NODULES_MM, lesion_of, subject_of
from dataset.sources.drawn_lesions import NODULE_HU, SCAN_LESIONS, LesionDrawing
from dataset.sources.lesion_scans import LesionScans

SPACING = (3.0, 3.0, 3.0)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return Volume(thorax((96, 90, 108)).astype(np.float32), SPACING)


@pytest.fixture(scope="module")
def drawing(volume) -> LesionDrawing:
    return LesionDrawing.of(volume, "a.nii.gz")


def test_a_nodule_is_one_ball_of_its_size_inside_a_lung(volume, drawing):
    voxel_ml, grown = np.prod(SPACING) / 1000.0, []
    for lesion, diameter in NODULES_MM.items():
        change = drawing.draw(lesion, 0) - volume.hu
        assert label(change != 0)[1] == 1 and drawing.lungs[change != 0].all()
        where = np.argwhere(change > 0.5 * change.max())
        grown.append(tuple(np.round(where.mean(axis=0)).astype(int)))
        ball = np.pi / 6 * (diameter / 10) ** 3
        shares = change / np.where(change != 0, NODULE_HU - volume.hu, 1.0)  # of tissue in each voxel
        assert shares.sum() * voxel_ml == pytest.approx(ball, rel=0.12)
    assert len(set(grown)) == 1  # one centre for the three sizes


def test_places_differ_and_stay_the_same_in_every_process(volume, drawing):
    again = LesionDrawing.of(volume, "a.nii.gz")
    drawn = [drawing.draw("nodule_20", place) for place in range(4)]
    assert all(np.array_equal(hu, again.draw("nodule_20", place)) for place, hu in enumerate(drawn))
    assert len({hu.tobytes() for hu in drawn}) == 4
    assert not np.array_equal(drawn[0], LesionDrawing.of(volume, "b.nii.gz").draw("nodule_20", 0))


@pytest.mark.parametrize(("lesion", "count"), [(EFFUSION, 2), (HALF, 4)])
def test_fluid_and_airless_halves_fill_parts_of_one_lung(volume, drawing, lesion, count):
    changed = [hu != volume.hu for hu in drawing.places(lesion)]
    assert len(changed) == count and all(part.any() and drawing.lungs[part].all() for part in changed)
    overlap = sum(part.astype(int) for part in changed)
    assert overlap.max() == 1  # sides and halves are apart
    if lesion == HALF:
        assert np.array_equal(overlap > 0, drawing.lungs)  # together they are both lungs
    assert all(np.array_equal(drawing.draw(lesion, place), drawing.places(lesion)[place]) for place in range(count))


def test_what_was_not_scanned_stays_marked_and_no_lungs_are_refused(volume):
    hu = volume.hu.copy()
    hu[:30] = NOT_SCANNED_HU
    drawing = LesionDrawing.of(Volume(hu, SPACING), "a.nii.gz")
    for lesion in (HEALTHY, *SCAN_LESIONS):
        drawn = drawing.draw(lesion, 1)
        assert (drawn[:30] == NOT_SCANNED_HU).all() and (drawn[30:] != NOT_SCANNED_HU).all()
    with pytest.raises(UserError, match="a.nii.gz: no lungs found"):
        LesionDrawing.of(Volume(np.full((20, 20, 20), 40.0, np.float32), SPACING), "a.nii.gz")


def test_cases_of_a_place_share_the_noise_and_differ_where_the_lesion_is(tmp_path):
    for name in ("a", "b"):
        save_nifti(tmp_path / "data" / f"{name}.nii.gz", thorax((48, 45, 54)), spacing=(6.0, 6.0, 6.0))
    rows = [{"id": n, "patient": n, "ct": f"{n}.nii.gz", "split": s} for n, s in (("a", "train"), ("b", "test"))]
    write_manifest(make_rows(rows), tmp_path / "data" / "manifest.csv")
    folder = source(tmp_path / "data", volume_size=(24, 24, 24), drr=DrrSettings(photons=1e4))
    scans = LesionScans(folder, 3)
    assert set(scans.rows["patient"]) == {"b"}
    assert scans.rows["id"].map(lambda name: lesion_of({"id": name})).value_counts().to_dict() == {
        HEALTHY: 3, **dict.fromkeys(NODULES_MM, 3), EFFUSION: 2, HALF: 3
    }  # fmt: skip
    assert len({scans.key(row) for row in scans.rows.to_dict("records")}) == len(scans.rows)
    records = scans.rows.to_dict("records")
    cases = dict(zip(scans.rows["id"], map(read_case, prepare_cases(scans, tmp_path / "cache", 0)), strict=True))
    for row in records:
        case, healthy = cases[row["id"]], cases[f"{subject_of(row)}_{HEALTHY}"]
        changed = [not torch.equal(case[key], healthy[key]) for key in ("ct", "xray")]
        assert changed == [lesion_of(row) != HEALTHY] * 2, row["id"]
    place = next(scans.places(records[0], EFFUSION))
    assert place.shape == (24, 24, 24) and (place != cases[records[0]["id"]]["ct"].numpy()).any()


def test_a_test_case_with_a_film_is_refused(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", thorax())
    film(tmp_path / "a.png")
    row = {"id": "a", "patient": "a", "ct": "a.nii.gz", "xray": "a.png", "split": "test"}
    write_manifest(make_rows([row]), tmp_path / "manifest.csv")
    with pytest.raises(UserError, match="test cases have X-ray files, to which no lesion can be added"):
        _ = LesionScans(source(tmp_path), 2).rows


def test_cases_with_lesions_are_rendered_although_a_training_case_of_the_folder_has_a_film(tmp_path):
    for name in ("a", "b"):
        save_nifti(tmp_path / f"{name}.nii.gz", thorax())
    film(tmp_path / "a.png")
    rows = [{"id": n, "patient": n, "ct": f"{n}.nii.gz", "split": s} for n, s in (("a", "train"), ("b", "test"))]
    write_manifest(make_rows([rows[0] | {"xray": "a.png"}, rows[1]]), tmp_path / "manifest.csv")
    folder = source(tmp_path)
    assert folder.forward_model() is None and LesionScans(folder, 2).forward_model() == folder.drr.forward_model()
