"""Each data set as it lies on disk is prepared by one command and read back by its yaml: HU, affine, pairs, labels.

The trees are small: DICOM written from lopsided phantoms, an oblique and a feet-first series among them.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from chest_files import save_nifti, thorax
from dicom_files import CENTRE, SPACING, nifti_affine_of, rotation_about, write_ct_series
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from radiograph_files import film, save_radiograph

from common.errors import UserError
from common.files import ROOT
from dataset.io.xray import read_xray
from dataset.preparation.options import prepare_set

CONFIG = ROOT / "config"
OBLIQUE = rotation_about("x", 12) @ rotation_about("z", -20)
CASE_SIZE = [12, 14, 16]


class Scans:
    """The CTs of a tree: what a reader must find of each, under the name that its linkage row ends with."""

    def __init__(self, root: Path):
        self.root, self.truth = root, {}

    def add(self, place: str, seed: int, rotation=None, **options) -> Path:
        hu = thorax(seed=seed)
        write_ct_series(self.root / place, hu, rotation=rotation, **options)
        self.truth[place] = (hu, nifti_affine_of(hu.shape, rotation=rotation))
        return self.root / place


def prepared(source, output, *overrides):
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose(
            "prepare",
            [
                f"source={source}",
                f"output={output}",
                "crop_box=whole",
                "remove_table=false",
                "spacing=null",
                "workers=0",
                *overrides,
            ],
        )
    prepare_set(cfg)
    manifest = pd.read_csv(output / "manifest.csv", dtype=str, keep_default_na=False)
    linkage = pd.read_csv(f"{output}-linkage/linkage.csv", dtype=str, keep_default_na=False)
    return manifest.merge(linkage.add_prefix("raw_"), left_on="id", right_on="raw_id", validate="1:1")


def source_of(name, root, *overrides):
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        size = f"dataset.volume_size={CASE_SIZE}".replace(" ", "")
        composed = compose("train_ddpm", [f"dataset={name}", size, "dataset.xray_size=[32,32]", *overrides])
    config = OmegaConf.create({"dataset": OmegaConf.to_container(composed.dataset)})
    config.dataset.root_dir, config.dataset.cache_dir = str(root), str(root.parent / "cache")
    return instantiate(config.dataset.source)


def check_volumes(rows, output, scans):
    """Every prepared volume is its scan: HU within 1, affine within 1e-3, whatever the order of the axes."""
    assert len(rows) and len(list((output / "ct").iterdir())) == len(rows)
    for row in rows.to_dict("records"):
        (place,) = [name for name in scans.truth if str(Path(row["raw_ct"])).endswith(name)]
        hu, affine = scans.truth[place]
        found = nib.load(output / row["ct"])
        expected = nib.Nifti1Image(np.transpose(hu, (2, 1, 0)).astype(np.int16), affine)
        turn = nib.orientations.ornt_transform(nib.io_orientation(expected.affine), nib.io_orientation(found.affine))
        expected = expected.as_reoriented(turn)
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-3, err_msg=place)
        assert np.abs(found.get_fdata() - expected.get_fdata()).max() <= 1, place


def check_data_set(name, output, count, *overrides):
    """The yaml of the data set reads the prepared folder: rows with splits by patient, a case of the right shape."""
    source = source_of(name, output, *overrides)
    rows = source.rows
    assert len(rows) == count and set(rows["split"]) <= {"train", "val", "test"}
    assert rows.groupby("patient")["split"].nunique().max() == 1
    case = source.build(rows.iloc[0])
    assert list(case["ct"].shape) == CASE_SIZE and case["xray"].shape == (1, 32, 32)
    assert -1024 <= int(case["ct"].min()) < -700 and int(case["ct"].max()) > 300  # not windowed
    is_film = rows.iloc[0]["xray_source"] == "film"
    assert bool(torch.isnan(case["pose"]).any()) == is_film
    return rows


def test_ctpa_a_hospitals_export_with_a_label_table(tmp_path):
    scans = Scans(tmp_path / "pacs")
    scans.add("PAT001/S1/B31f", 1, patient="001", accession="A1", study_uid="1.2.1")
    scans.add("PAT002/S2/B31f", 2, patient="002", accession="A2", study_uid="1.2.2", feet_first=True)
    scans.add("PAT003/S3/B31f", 3, patient="003", accession="A3", study_uid="1.2.3", rotation=OBLIQUE)
    lung_kernel = {"kernel": "B70f", "description": "Lung B70f", "patient": "001", "study_uid": "1.2.1"}
    write_ct_series(tmp_path / "pacs" / "PAT001" / "S1" / "B70f", thorax(seed=1), accession="A1", **lung_kernel)
    (tmp_path / "labels.csv").write_text("accession;embolism\nA1;yes\nA2;no\nA3;\n")
    output = tmp_path / "out"
    rows = prepared(
        scans.root, output, f"label.file={tmp_path / 'labels.csv'}", "label.id=accession", "label.column=embolism",
        "label.positive=yes",
    )  # fmt: skip
    check_volumes(rows, output, scans)  # the soft kernel of each study, none twice
    assert dict(zip(rows["raw_accession"], rows["label"], strict=True)) == {"A1": "1", "A2": "0", "A3": "-1"}
    assert set(rows["xray_source"]) <= {"drr", "drr_contrast"}
    check_data_set("ctpa", output, 3)


def test_xrayctpa_two_exports_with_the_published_table(tmp_path):
    scans = Scans(tmp_path / "src")
    for i in range(1, 4):
        scans.add(f"CT/{i}", i, patient=f"C{i}", accession=f"40{i}", study_uid=f"1.2.{i}", feet_first=i == 2)
        stored = film() if i != 2 else film()[:, ::-1]
        orientation = ("L", "F") if i != 2 else ("R", "F")
        polarity = "MONOCHROME2" if i != 3 else "MONOCHROME1"
        save_radiograph(
            tmp_path / "src" / "CR" / f"{i}.dcm", stored if i != 3 else 4095 - film(), patient=f"X{i}",
            accession=f"50{i}", orientation=orientation, photometric=polarity, view="AP",
        )  # fmt: skip
    fold = tmp_path / "fold0"
    fold.mkdir()
    for i, name in enumerate(("y_train", "y_valid", "y_test"), 1):
        (fold / f"{name}.csv").write_text(f"CT_Accession_number,cxr_Accession_number,PE\n40{i},50{i},{i % 2}\n")
    output = tmp_path / "out"
    rows = prepared(scans.root, output, f"from_csv={fold}")
    check_volumes(rows, output, scans)
    assert (rows["xray_source"] == "film").all() and (rows["view"] == "AP").all()
    for row in rows.to_dict("records"):
        i = int(row["raw_accession"]) - 400
        assert row["label"] == str(i % 2) and row["split"] == ("train", "val", "test")[i - 1]
        assert float(row["hours_xray_to_ct"]) == 2.5
    expected = read_xray(save_radiograph(tmp_path / "w.dcm"), (32, 32))  # all three films are one image
    for row in rows.to_dict("records"):
        shown = read_xray(output / row["xray"], (32, 32))
        torch.testing.assert_close(shown, expected, atol=2e-3, rtol=0, equal_nan=True)
    check_data_set("xrayctpa", output, 3)


def test_xrayctpa_by_patient_id_and_time(tmp_path):
    scans = Scans(tmp_path / "src")
    for i in (1, 2, 3):
        scans.add(f"ct{i}", i, patient=f"P{i}", study_uid=f"1.2.{i}")
    save_radiograph(tmp_path / "src" / "a.dcm", patient="P1")
    save_radiograph(tmp_path / "src" / "b.dcm", patient="P2", uid="1.9.1")
    save_radiograph(tmp_path / "src" / "c.dcm", patient="P2", uid="1.9.2")  # a tie with b
    output = tmp_path / "out"
    rows = prepared(scans.root, output).set_index("raw_patient")
    assert rows["xray_source"].map(lambda s: s.split("_")[0]).to_dict() == {"P1": "film", "P2": "drr", "P3": "drr"}
    summary = (output / "summary.csv").read_text()
    assert "equally near" in summary and "P2" not in summary


def lidc_tree(root, with_films=False):
    """LIDC-IDRI as the TCIA retriever lays it out: a folder a patient, study and series; X-rays in own studies."""
    scans = Scans(root)
    lines = ["Series UID,Collection,Subject ID,Study UID,Modality,File Location"]
    for i, options in enumerate(({}, {"rotation": OBLIQUE}, {"feet_first": True}), 1):
        patient, place = f"LIDC-IDRI-000{i}", f"LIDC-IDRI/LIDC-IDRI-000{i}/01-01-2000-30178/3000566.000000-0319{i}"
        series = f"1.3.6.{i}"
        scans.add(
            place, i, patient=patient, study_uid=f"1.3.7.{i}", series_uid=series, accession="", time=None, age="",
            contrast="", prefix="1-", **options,
        )  # fmt: skip
        (root / place / "069.xml").write_text("<LidcReadMessage/>")
        lines.append(f"{series},LIDC-IDRI,{patient},1.3.7.{i},CT,.\\{place}".replace("/", "\\"))
        if with_films:
            films = f"LIDC-IDRI/{patient}/01-01-2000-35511/3000923.000000-6235{i}"
            study = {"patient": patient, "study_uid": f"1.3.8.{i}", "time": None, "age": "", "accession": ""}
            save_radiograph(root / films / "1-1.dcm", **study)
            save_radiograph(root / films / "1-2.dcm", view="LL", orientation=("P", "F"), **study)
            lines.append(f"1.3.9.{i},LIDC-IDRI,{patient},1.3.8.{i},DX,.\\{films}".replace("/", "\\"))
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return scans


def test_lidc_as_downloaded(tmp_path):
    scans, output = lidc_tree(tmp_path / "manifest-1600709154662"), tmp_path / "out"
    rows = prepared(scans.root, output, "min_vessel_hu=null")
    check_volumes(rows, output, scans)
    assert set(rows["label"]) == {"-1"}
    check_data_set("lidc", output, 3, "dataset.n_folds=3", "dataset.fold=1")


def test_xraylidc_xrays_without_times_pair_by_patient(tmp_path):
    scans, output = lidc_tree(tmp_path / "tcia", with_films=True), tmp_path / "out"
    table = f"from_csv={scans.root / 'metadata.csv'}"
    rows = prepared(scans.root, output, table, "max_hours=null", "min_vessel_hu=null")
    check_volumes(rows, output, scans)
    assert set(rows["xray_source"]) == {"film"} and set(rows["view"]) == {"PA"}  # the laterals are left
    check_data_set("xraylidc", output, 3)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_rspect_as_downloaded(tmp_path):
    scans = Scans(tmp_path / "rspect")
    lines = [
        "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,pe_present_on_image,negative_exam_for_pe,indeterminate"
    ]
    for i, (negative, indeterminate) in enumerate(((0, 0), (1, 0), (0, 1)), 1):
        study, series = f"6897fa9de14{i}", f"2bfbb7fd2e8{i}"  # its UIDs are hashes, its headers hold little else
        scans.add(
            f"train/{study}/{series}", i, patient=f"p{i}", study_uid=study, series_uid=series, accession="", time=None,
            age="", sex="", contrast="", kernel="", description="", rotation=OBLIQUE if i == 2 else None,
            feet_first=i == 3, image_type=("ORIGINAL", "PRIMARY"),
        )  # fmt: skip
        lines += [f"{study},{series},{k},0,{negative},{indeterminate}" for k in range(3)]
    lines.append("000elsewhere,111elsewhere,1,0,1,0")  # the table is of more than lies on this disk
    (scans.root / "train.csv").write_text("\n".join(lines) + "\n")
    output = tmp_path / "out"
    rows = prepared(scans.root, output, f"from_csv={scans.root / 'train.csv'}")
    check_volumes(rows, output, scans)
    assert rows.set_index("raw_series")["label"].to_dict() == {
        "2bfbb7fd2e81": "1", "2bfbb7fd2e82": "0", "2bfbb7fd2e83": "-1"
    }  # fmt: skip
    check_data_set("rspect", output, 3)


def test_default_a_folder_of_nifti_with_xrays_beside(tmp_path):
    root, output = tmp_path / "src", tmp_path / "out"
    for i, axes in enumerate(("LPS", "RAS", "SPL"), 1):
        save_nifti(root / f"case{i}.nii.gz", thorax(seed=i), axcodes=axes)
    Image.fromarray((film() >> 4).astype(np.uint8)).save(root / "case2.png")
    rows = prepared(root, output)
    scans = Scans(root)
    for i in (1, 2, 3):
        scans.truth[f"case{i}.nii.gz"] = (thorax(seed=i), nifti_affine_of(thorax().shape, SPACING, CENTRE))
    check_volumes(rows, output, scans)
    with_film = rows[rows["xray_source"] == "film"]
    assert with_film["raw_ct"].str.endswith("case2.nii.gz").tolist() == [True]
    check_data_set("default", output, 3)


def test_a_table_with_a_patient_in_two_splits_stops_before_anything_is_made(tmp_path):
    scans = Scans(tmp_path / "src")
    scans.add("a", 1, patient="P1", accession="A1")
    table = tmp_path / "t.csv"
    table.write_text("Subject ID,CT_Accession_number,PE,split\nP1,A1,1,train\nP1,A2,1,test\n")
    with pytest.raises(UserError, match="two splits"):
        prepared(scans.root, tmp_path / "out", f"from_csv={table}")
    assert not (tmp_path / "out" / "manifest.csv").exists()
