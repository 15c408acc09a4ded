"""Pairs, hours, labels and merged patients in prepared sets."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from dicom_files import TIME
from PIL import Image
from prepare_runs import HU, OTHER, configured, run, write
from radiograph_files import save_radiograph

from common.errors import UserError
from dataset.preparation.options import prepare_set


def radiograph(path, patient="A", time=TIME - timedelta(hours=3), **tags):
    stored = np.random.default_rng(1).integers(0, 4000, (64, 48))
    save_radiograph(path, stored, patient=patient, time=time, **{"AccessionNumber": "XR1", **tags})


def two_names_of_one_person(folder):
    """CTs of C12 and C13, a month apart, whose X-rays are both of F12; C14 is another person."""
    for days, name in enumerate(("C12", "C13", "C14")):
        when = TIME + timedelta(days=30 * days)
        write(folder / f"scan{days}", HU + np.int16(days), patient=name, accession=f"A{name}", time=when)
        xray_patient = "F14" if name == "C14" else "F12"
        radiograph(folder / f"xray{days}.dcm", xray_patient, when - timedelta(hours=2), AccessionNumber=f"X{name}")


@pytest.mark.parametrize("rows", ["C12,F12\nC13,F12\nC14,F14", "AC12,XC12\nAC13,XC13\nC14,F14"])
def test_pseudonyms_with_one_x_ray_patient_are_merged(tmp_path, rows, caplog):
    two_names_of_one_person(tmp_path / "in")
    (tmp_path / "pairs.csv").write_text(f"ct,xray\n{rows}\n")
    options = {"spacing": "null", "crop_box": "whole"}
    manifest, _ = run(tmp_path / "in", tmp_path / "out", pairs=tmp_path / "pairs.csv", **options)
    patient = manifest.set_index("patient_raw")["patient"]
    assert (manifest["xray_source"] == "film").all()
    assert patient["C12"] == patient["C13"] != patient["C14"]
    assert "1 patients of the CTs are merged with another one" in caplog.text and "C13" not in caplog.text
    linkage = pd.read_csv(tmp_path / "out-linkage" / "linkage.csv", dtype=str).set_index("patient")["patient_id"]
    assert linkage.to_dict() == patient.to_dict()
    table = tmp_path / "set.csv"
    table.write_text("CT_Accession_number,PE,split\nAC12,1,train\nAC13,0,test\nAC14,0,train\n")
    with pytest.raises(UserError, match="1 patients, .* in two splits"):
        run(tmp_path / "in", tmp_path / "out", pairs=tmp_path / "pairs.csv", from_csv=table, **options)


@pytest.fixture
def pairs(tmp_path):
    write(tmp_path / "in" / "a", patient="A", accession="CT-A")
    radiograph(tmp_path / "in" / "a.dcm")
    write(tmp_path / "in" / "b", OTHER, patient="B", accession="CT-B")
    return tmp_path / "in", tmp_path / "out"


def test_pairs_by_patient_with_hours_view_age_and_sex(pairs):
    manifest, _ = run(*pairs, spacing="[6,6,6]", keep_age=True, keep_sex=True)
    rows = manifest.set_index("patient_raw")
    assert rows["xray_source"].to_dict() == {"A": "film", "B": "drr_contrast"}
    assert rows.loc["A", "hours_xray_to_ct"] == 3.0 and rows.loc["A", "view"] == "PA"
    assert np.isnan(rows.loc["B", "hours_xray_to_ct"])
    assert rows["age"].tolist() == [61, 61] and rows["sex"].tolist() == ["F", "F"]
    with Image.open(pairs[1] / rows.loc["A", "xray"]) as picture:
        assert picture.size == (48, 64) and np.asarray(picture).dtype == np.uint16 and not picture.info


def test_unpaired_cts_can_be_left_out(pairs):
    manifest, summary = run(*pairs, spacing="[6,6,6]", unpaired="skip")
    assert manifest["patient_raw"].tolist() == ["A"]
    assert summary[summary["status"] == "skipped"]["reason"].tolist() == ["no X-ray"]


def test_a_refused_xray_is_replaced_by_a_drr_or_its_ct_fails(pairs):
    radiograph(pairs[0] / "a.dcm", BurnedInAnnotation="YES")
    manifest, summary = run(*pairs, spacing="[6,6,6]")
    row = manifest.set_index("patient_raw").loc["A"]
    reason = summary.set_index("id").loc[row["id"], "reason"]
    assert row["xray_source"] == "drr_contrast" and "X-ray refused" in reason and "Burned In" in reason
    with pytest.raises(UserError, match="no case could be prepared"):
        run(*pairs, spacing="[6,6,6]", unpaired="skip")


def test_an_xray_of_unknown_view_is_flagged(pairs, tmp_path):
    radiograph(pairs[0] / "a.dcm", ViewPosition="", SeriesDescription="", AccessionNumber="XR1")
    manifest, summary = run(*pairs, spacing="[6,6,6]")
    reasons = manifest.merge(summary, on="id").set_index("patient_raw")["reason"]
    assert "the X-ray has no view in its header" in reasons["A"] and "no view" not in reasons["B"]
    (tmp_path / "pairs.csv").write_text("ct,xray,view\nCT-A,XR1,PA\n")
    _, summary = run(*pairs, spacing="[6,6,6]", pairs=tmp_path / "pairs.csv")
    assert not summary["reason"].str.contains("no view in its header").any()


def test_an_unpaired_ct_is_done_with_a_flag(pairs):
    write(pairs[0] / "a2", OTHER, patient="A", time=TIME + timedelta(hours=1))
    radiograph(pairs[0] / "b.dcm", "B", ViewPosition="LL")
    manifest, summary = run(*pairs, spacing="[6,6,6]")
    assert (summary["status"] == "done").all() and len(summary) == 3
    reasons = manifest.merge(summary, on="id").groupby("patient_raw")["reason"].apply(list)
    assert all("no X-ray: 2 CTs have the same nearest X-ray" in reason for reason in reasons["A"])
    assert "no X-ray: the only X-ray is a lateral" in reasons["B"][0]
    outcome, _ = prepare_set(configured(*pairs, spacing="[6,6,6]"))
    assert outcome.unused == 2


def test_a_ct_that_fails_has_no_xray_file(pairs):
    bare = sorted((pairs[0] / "a").iterdir())[0]
    bare.unlink()
    write(pairs[0] / "a", patient="A", accession="CT-A", without_pixels=(3,))
    manifest, _ = run(*pairs, spacing="[6,6,6]")
    assert manifest["patient_raw"].tolist() == ["B"] and not list(pairs[1].rglob("*.png"))


def test_labels_from_a_table_with_an_unknown_id(pairs, tmp_path, caplog):
    table = tmp_path / "labels.csv"
    table.write_text("Accession,PE\nCT-A,1\nCT-B,0\nCT-Z,1\n")
    label = {"label.file": table, "label.id": "Accession", "label.column": "PE"}
    with caplog.at_level("WARNING"):
        manifest, _ = run(*pairs, spacing="[6,6,6]", **label)
    assert manifest.set_index("patient_raw")["label"].to_dict() == {"A": 1, "B": 0}
    assert "1 ids that no case" in caplog.text and "CT-Z" not in caplog.text
    with pytest.raises(UserError, match="label.id and label.column is missing"):
        run(*pairs, **{"label.file": table})


def test_from_csv_lists_cases_labels_splits_and_pairs(pairs, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.csv").write_text("CT_Accession_number,cxr_Accession_number,PE\nCT-A,XR1,1\n")
    (tmp_path / "set" / "train.csv").write_text("CT_Accession_number,cxr_Accession_number,PE\nCT-Q,XR9,0\n")
    manifest, summary = run(*pairs, spacing="[6,6,6]", from_csv=tmp_path / "set")
    row = manifest.iloc[0]
    assert len(manifest) == 1 and (row["patient_raw"], row["label"], row["split"], row["xray_source"]) == (
        "A", 1, "test", "film")  # fmt: skip
    assert summary[summary["status"] == "skipped"]["reason"].tolist() == ["not in the table of from_csv"]


def test_a_series_without_patient_id_is_of_the_patient_of_its_study(tmp_path):
    write(tmp_path / "in" / "thin", patient="A", study_uid="1.2", series_uid="1.2.1", accession="CT-A")
    write(tmp_path / "in" / "lung", patient="", study_uid="1.2", series_uid="1.2.2", kernel="B70f", accession="CT-A")
    write(tmp_path / "in" / "next", OTHER, patient="", study_uid="1.3", series_uid="1.3.1")
    (tmp_path / "picks.csv").write_text("series\n1.2.2\n")
    for picks, patients, flag in (("null", ["", "A"], False), (tmp_path / "picks.csv", ["", "A"], True)):
        manifest, summary = run(
            tmp_path / "in", tmp_path / "out", spacing="null", crop_box="whole", min_vessel_hu="null", series=picks
        )
        assert sorted(manifest["patient_raw"]) == patients  # one case of the study
        assert summary["reason"].str.contains("no Patient ID: that of its study is used").any() == flag
    assert manifest["patient"].nunique() == 2


def test_validation_takes_whole_patients_of_the_folders_of_splits(tmp_path):
    for i in range(6):
        write(tmp_path / "in" / "train" / f"A{i}", HU + np.int16(i), patient=f"P{i % 3}", series_uid=f"1.2.{i}")
    write(tmp_path / "in" / "test" / "B", OTHER, patient="Q", series_uid="1.3")
    manifest, _ = run(tmp_path / "in", tmp_path / "out", spacing="[9,9,9]", crop_box="whole", min_vessel_hu="null")
    assert manifest.groupby("split")["patient_raw"].unique().map(len).to_dict() == {"train": 2, "val": 1, "test": 1}
