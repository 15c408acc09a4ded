"""From a hospital's tree to a training set: geometry, series, labels, settings, repeated runs, no identifiers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from chest_files import save_nifti
from dicom_files import CENTRE, nifti_affine_of, rotation_about, write_ct_series, write_enhanced_ct
from PIL import Image
from prepare_runs import HU, OTHER, SPACING, configured, run, write

from common.command_help import help_text
from common.errors import UserError
from common.files import ROOT
from dataset.imaging.coverage import fill
from dataset.io.ct import read_volume
from dataset.manifest.table import read_manifest
from dataset.preparation.options import prepare_set


def statuses(outcome):
    return [row["status"] for row in outcome.rows]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tree with every kind of source, prepared once at the voxels of the scans."""
    place = tmp_path_factory.mktemp("hospital")
    tree = place / "exports"
    write(tree / "one" / "ct", patient="STRAIGHT", study_uid="1.2.826.1", series_uid="1.2.826.1.1", accession="ACC1")
    write(tree / "one" / "scout", HU[:2], patient="STRAIGHT", study_uid="1.2.826.1", series_uid="1.2.826.1.9",
          image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))  # fmt: skip
    write(tree / "one" / "lung", patient="STRAIGHT", study_uid="1.2.826.1", series_uid="1.2.826.1.2", kernel="B70f",
          accession="ACC1")  # fmt: skip
    write(tree / "two", OTHER, patient="OBLIQUE", study_uid="1.2.826.2", rotation=rotation_about("x", 10))
    write(tree / "two", HU, patient="FEETFIRST", study_uid="1.2.826.3", feet_first=True, prefix="F", syntax="jpeg2000")
    write(tree / "hole", patient="HOLE", study_uid="1.2.826.4", skip=(15,))
    write(tree / "tilt", patient="TILTED", study_uid="1.2.826.5", gantry_tilt=12.0)
    write(tree / "bare", patient="BARE", study_uid="1.2.826.6", without_pixels=(3,))
    write_enhanced_ct(tree / "enhanced.dcm", OTHER, SPACING, patient="ENHANCED", study_uid="1.2.826.7")
    save_nifti(tree / "nifti" / "scan_of_smith.nii.gz", OTHER, SPACING, CENTRE, "RAS")
    grey = np.random.default_rng(0).integers(0, 65535, (40, 30)).astype(np.uint16)
    Image.fromarray(grey).save(tree / "nifti" / "scan_of_smith.png")
    write(tree / "scouts", HU[:2], patient="SCOUTS", study_uid="1.2.826.8", image_type=("ORIGINAL", "LOCALIZER"))
    manifest, summary = run(tree, place / "set", spacing="null", crop_box="whole")
    return place, tree, manifest.set_index("patient_raw"), summary


def test_every_kind_of_source_keeps_hu_within_1_and_affine_within_1e3(made):
    place, _, manifest, _ = made
    truth = {"STRAIGHT": (HU, None), "OBLIQUE": (OTHER, rotation_about("x", 10)), "FEETFIRST": (HU, None),
             "ENHANCED": (OTHER, None), "scan_of_smith": (OTHER, None)}  # fmt: skip
    assert set(manifest.index) == set(truth)
    for patient, (hu, rotation) in truth.items():
        image = nib.load(place / "set" / manifest.loc[patient, "ct"])
        assert image.get_data_dtype() == np.int16
        assert np.abs(np.asarray(image.dataobj).transpose(2, 1, 0) - hu.astype(int)).max() <= 1
        np.testing.assert_allclose(image.affine, nifti_affine_of(hu.shape, SPACING, rotation=rotation), atol=1e-3)
        assert [float(s) for s in manifest.loc[patient, "spacing"].split()] == pytest.approx(SPACING, abs=1e-3)


def test_unusable_series_fail_with_a_reason_and_the_others_are_done(made):
    _, _, _, summary = made
    failed = summary[summary["status"] == "failed"]["reason"].tolist()
    for word in ("a slice is missing", "gantry tilt", "no pixel data"):
        assert sum(word in reason for reason in failed) == 1
    assert summary["status"].value_counts().to_dict() == {"done": 5, "failed": 3, "skipped": 1}
    assert summary[summary["status"] == "skipped"]["reason"].item() == "localiser (2 images)"


def test_all_candidates_are_listed_with_reasons(made):
    place, *_ = made
    rows = pd.read_csv(place / "set" / "candidates.csv", dtype=str, keep_default_na=False)
    study = rows[rows["study"] == rows[rows["reason"] == "ranked first"]["study"].item()]
    assert study["reason"].tolist() == [
        "ranked first", "sharp kernel, the chosen series: soft kernel", "localiser (2 images)"]  # fmt: skip
    assert study["chosen"].tolist() == ["yes", "no", "no"] and len(rows) == 11


def test_rows_without_an_xray_are_drrs_with_or_without_contrast(made):
    _, _, manifest, _ = made
    assert manifest["xray_source"].to_dict() == {
        "STRAIGHT": "drr_contrast", "OBLIQUE": "drr_contrast", "FEETFIRST": "drr_contrast",  # agent in the header
        "ENHANCED": "drr", "scan_of_smith": "film"}  # fmt: skip
    assert (manifest["age"] == -1).all() and (manifest["sex"] == "").all()  # only on request


def test_the_same_voxels_have_the_same_hash_and_are_flagged(made):
    _, _, manifest, summary = made
    assert manifest.loc["STRAIGHT", "source_hash"] == manifest.loc["FEETFIRST", "source_hash"]
    assert manifest.loc["STRAIGHT", "source_hash"] != manifest.loc["OBLIQUE", "source_hash"]
    row = summary.set_index("id").loc[manifest.loc["STRAIGHT", "id"]]
    assert f"same voxels as {manifest.loc['FEETFIRST', 'id']}" in row["reason"]
    # One scan under two names: no split separates it.
    assert manifest.loc["STRAIGHT", "patient"] == manifest.loc["FEETFIRST", "patient"]


def test_the_output_holds_no_identifier(made):
    place, tree, _, _ = made
    secrets = {"STRAIGHT", "OBLIQUE", "FEETFIRST", "HOLE", "TILTED", "BARE", "ENHANCED", "SCOUTS", "Name^", "1.2.826",
               "ACC1", "ACC-1", "smith", "20190304", "061Y", "OMNI", "CTPA 1.0", str(tree), "exports"}  # fmt: skip
    for path in (place / "set").rglob("*"):
        text = path.name + (path.read_bytes() if path.is_file() else b"").decode("latin-1")
        if path.name.endswith(".nii.gz"):
            text = path.name + nib.load(path).header.binaryblock.decode("latin-1")
        assert not [word for word in secrets if word in text], path
    linkage = (place / "set-linkage" / "linkage.csv").read_text()
    assert "STRAIGHT" in linkage and "1.2.826.1.1" in linkage


def test_a_second_run_makes_only_missing_cases(made, caplog):
    place, tree, manifest, _ = made
    output = place / "set"
    stamps = {path: path.stat().st_mtime_ns for path in output.glob("ct/*")}
    victim = output / manifest.loc["OBLIQUE", "ct"]
    victim.unlink()
    lines = (output / "prepare.log").read_text().splitlines()
    outcome, _ = prepare_set(configured(tree, output, spacing="null", crop_box="whole"))
    assert outcome.kept == 4 and [statuses(outcome).count(one) for one in ("done", "failed")] == [5, 3]
    assert {path for path in stamps if path.stat().st_mtime_ns != stamps[path]} == {victim}
    added = (output / "prepare.log").read_text().splitlines()[len(lines) :]
    made_again = [line for line in added if " done " in line]
    assert len(made_again) == 1 and victim.name.split(".")[0] in made_again[0]


def test_another_setting_or_a_changed_source_is_made_again(tmp_path):
    folder = write(tmp_path / "in", patient="A")
    prepare_set(configured(tmp_path / "in", tmp_path / "out", spacing="[5,5,5]"))
    assert prepare_set(configured(tmp_path / "in", tmp_path / "out", spacing="[5,5,5]"))[0].kept == 1
    assert prepare_set(configured(tmp_path / "in", tmp_path / "out", spacing="[5,5,6]"))[0].kept == 0
    os.utime(sorted(folder.iterdir())[0], ns=(1, 1))
    assert prepare_set(configured(tmp_path / "in", tmp_path / "out", spacing="[5,5,6]"))[0].kept == 0


def test_an_interrupted_case_leaves_no_record_and_no_half_file(tmp_path, monkeypatch):
    write(tmp_path / "in", patient="A")

    def full_disk(path, content):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(UserError, match="output=.*No space left.*continues"):
        prepare_set(configured(tmp_path / "in", tmp_path / "out", spacing="[5,5,5]"))
    assert not list((tmp_path / "out").rglob("*.nii.gz")) and not list((tmp_path / "out").rglob("*.json"))
    monkeypatch.undo()
    assert statuses(prepare_set(configured(tmp_path / "in", tmp_path / "out", spacing="[5,5,5]"))[0]) == ["done"]


@pytest.mark.parametrize(
    ("options", "shape", "spacing"),
    [
        ({"spacing": "[4,4,4]"}, None, (4.0, 4.0, 4.0)),
        ({"spacing": "[6,6,6]", "volume_size": "[40,48,56]"}, (40, 48, 56), (6.0, 6.0, 6.0)),
        ({"spacing": "null", "volume_size": "[16,24,32]"}, (16, 24, 32), None),
    ],
)
def test_spacing_and_size(tmp_path, options, shape, spacing):
    """A point of the patient has the same HU on every grid."""
    write(tmp_path / "in", patient="A", rotation=rotation_about("z", 8))
    manifest, _ = run(tmp_path / "in", tmp_path / "out", margin=20, **options)
    volume = read_volume(tmp_path / "out" / manifest["ct"][0])
    assert shape is None or volume.hu.shape == shape
    assert spacing is None or volume.spacing == pytest.approx(spacing)
    assert volume.direction is None  # straightened
    inverse = np.linalg.inv(volume.affine)
    truth = nifti_affine_of(HU.shape, SPACING, rotation=rotation_about("z", 8))
    for d, h, w in ((15, 17, 27), (15, 23, 15), (14, 23, 38), (15, 34, 27)):  # heart, right lung, left lung, spine
        place = truth @ np.array([w, h, d, 1.0])
        column, row, slab = np.rint(inverse @ place)[:3].astype(int)
        assert volume.hu[slab, row, column] == pytest.approx(HU[d, h, w], abs=60)


def test_selected_series_by_uid_or_by_the_id_in_candidates(tmp_path):
    for name, kernel in (("1.2.826.1", "B30f"), ("1.2.826.2", "B70f")):
        write(tmp_path / "in" / name, patient="A", study_uid="1.2.826", series_uid=name, kernel=kernel)
    output = tmp_path / "out"
    manifest, _ = run(tmp_path / "in", output, spacing="[6,6,6]")
    rows = pd.read_csv(output / "candidates.csv", dtype=str)
    other = rows[rows["chosen"] == "no"]["series"].item()
    for pick in (other, "1.2.826.2"):
        (tmp_path / "picks.csv").write_text(f"series\n{pick}\n")
        picked, _ = run(tmp_path / "in", output, spacing="[6,6,6]", series=tmp_path / "picks.csv")
        assert picked["id"].tolist() == [other] != manifest["id"].tolist()
    (tmp_path / "picks.csv").write_text("series\n1.2.3.4\n")
    with pytest.raises(UserError, match="row 2 names no series"):
        run(tmp_path / "in", output, series=tmp_path / "picks.csv")


def test_a_warning_of_the_reader_is_a_flag_of_the_case(tmp_path, caplog):
    (tmp_path / "in").mkdir()
    image = nib.Nifti1Image(np.ascontiguousarray(OTHER.transpose(2, 1, 0)), nifti_affine_of(OTHER.shape, SPACING))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "in" / "smith.nii")
    _, summary = run(tmp_path / "in", tmp_path / "out", spacing="[6,6,6]")
    assert "no orientation in the header" in summary["reason"][0] and "smith" not in summary["reason"][0]
    assert "smith" not in caplog.text


def test_cases_removed_from_the_source_are_counted(tmp_path, caplog):
    for name in "AB":
        write(tmp_path / "in" / name, patient=name)
    run(tmp_path / "in", tmp_path / "out", spacing="[6,6,6]")
    for path in (tmp_path / "in" / "B").iterdir():
        path.unlink()
    manifest, _ = run(tmp_path / "in", tmp_path / "out", spacing="[6,6,6]")
    assert manifest["patient_raw"].tolist() == ["A"] and "1 cases of earlier runs" in caplog.text


def test_an_oblique_scan_is_straightened_before_it_is_cropped(tmp_path):
    """The corners of the box hold tissue, not air."""
    hu = np.full_like(HU, 40)
    hu[8:22, 16:30, 14:24] = hu[8:22, 16:30, 31:41] = -830  # lungs surrounded by tissue
    write(tmp_path / "in", hu, patient="A", rotation=rotation_about("z", 20))
    manifest, summary = run(tmp_path / "in", tmp_path / "out", spacing="[10,7,7]", margin=6, min_lung_ml=500)
    assert summary["voi"].tolist() == ["lungs"]
    made, scanned = fill(read_volume(tmp_path / "out" / manifest["ct"][0]).hu)
    assert scanned.mean() > 0.95 and made.min() > -900 and made.size < hu.size / 3


def test_a_second_run_repeats_no_line_of_the_log(made):
    place, tree, _, _ = made
    before = (place / "set" / "prepare.log").read_text()
    prepare_set(configured(tree, place / "set", spacing="null", crop_box="whole"))
    assert (place / "set" / "prepare.log").read_text() == before and " failed " in before and " skipped " in before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "null"}, "missing: source=<folder>"),
        ({"source": "/nowhere/at/all"}, "no such folder"),
        ({"crop_box": "heart"}, "choose lungs, body, whole"),
        ({"spacing": "[1,0,1]"}, "give 3 positive numbers"),
        ({"rules": "[thin,nice]"}, "no rule nice"),
        ({"unpaired": "maybe"}, "choose drr or skip"),
        ({"segmenter": "magic"}, "choose threshold or lungmask"),
        ({"margin": -5}, "margin=-5: give a number of 0 or more"),
        ({"margin": "abc"}, "margin=abc: give a number"),
        ({"min_lung_ml": "null"}, "min_lung_ml=None: give a number"),
        ({"max_hours": "x"}, "max_hours=x: give a number"),
        ({"max_hours": -1}, "max_hours=-1: give a number"),
        ({"min_vessel_hu": "a"}, "min_vessel_hu=a: give a number"),
        ({"workers": -3}, "workers=-3: give a whole number"),
        ({"workers": 1.5}, "workers=1.5: give a whole number"),
    ],
)
def test_invalid_settings_are_refused(tmp_path, options, message):
    write_ct_series(tmp_path / "in", HU[:6], SPACING)
    with pytest.raises(UserError, match=message):
        prepare_set(configured(**{"source": tmp_path / "in", "output": tmp_path / "out", **options}))


def test_invalid_folders_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="no CT in it"):
        prepare_set(configured(tmp_path / "in", tmp_path / "out"))
    with pytest.raises(UserError, match="is within source"):
        prepare_set(configured(tmp_path / "in", tmp_path / "in" / "out"))
    with pytest.raises(UserError, match="is inside output"):
        prepare_set(configured(tmp_path / "in", tmp_path / "out", linkage=tmp_path / "out" / "key"))


def test_every_key_has_a_line_of_help():
    text = help_text("prepare", [])
    for key in ("source", "crop_box", "margin", "spacing", "volume_size", "rules", "pairs", "label.file", "workers"):
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}="))
        assert " # " in line


@pytest.mark.nightly
def test_lungs_and_vessels_of_real_series(real_data, tmp_path):
    _, summary = run(real_data / "dicom", tmp_path / "out", spacing="[3,3,3]")
    rows = summary.sort_values("lung_ml", key=lambda column: column.astype(float))
    assert rows["voi"].tolist() == ["lungs", "lungs"] and rows["status"].tolist() == ["done", "done"]
    slab, thorax = rows.to_dict("records")
    assert 1300 < float(slab["lung_ml"]) < 1800 and float(slab["vessel_hu"]) > 200 and "covers 75 mm" in slab["reason"]
    assert 2300 < float(thorax["lung_ml"]) < 3100 and "below 150" in thorax["reason"]


@pytest.mark.slow
def test_the_command_in_two_processes(tmp_path):
    for name in "ABC":
        write(tmp_path / "in" / name, patient=name)
    write(tmp_path / "in" / "D", patient="D", skip=(9,))
    call = [sys.executable, ROOT / "dataset" / "prepare.py", f"source={tmp_path / 'in'}", f"output={tmp_path / 'out'}"]
    first = subprocess.run([*call, "workers=2", "spacing=[5,5,5]"], capture_output=True, text=True, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip().splitlines()[-1] == str(tmp_path / "out" / "manifest.csv")
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == 3 and "a slice is missing" in first.stdout
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "cases").iterdir()]
    assert len(records) == 3 and {record["voi"] for record in records} == {"lungs"}
    wrong = subprocess.run([*call, "marigns=3"], capture_output=True, text=True)
    assert wrong.returncode == 1 and "did you mean margin" in wrong.stderr
