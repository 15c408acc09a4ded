"""The preset of each public data set reads a small tree of its shape: patients, splits, pairs."""

import numpy as np
import SimpleITK as sitk
from chest_files import save_nifti, thorax
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from prepare_runs import OTHER, run, write
from radiograph_files import save_radiograph

from common.cli import CONFIG

HU = thorax(size=(8, 10, 12))


def rows_of(name, root, *overrides):
    """Rows of a preset as a training command composes them."""
    options = [f"dataset={name}", f"dataset.root_dir={root}", f"dataset.cache_dir={root.parent}/cache", *overrides]
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        source = instantiate(compose("train_vqgan", options).dataset.source)
    assert source.name == name
    return source.rows


def patients_by_split(rows):
    return {split: set(part["patient"]) for split, part in rows.groupby("split")}


def test_ct_rate(tmp_path):
    root = tmp_path / "dataset"
    for patient in ("train_1", "train_2", "valid_1"):
        for scan in ("a_1", "a_2", "b_1"):
            split, letter = patient.partition("_")[0], scan[0]
            save_nifti(root / f"{split}_fixed" / patient / f"{patient}_{letter}" / f"{patient}_{scan}.nii.gz", HU)
    found = patients_by_split(rows_of("ct_rate", root))
    assert found == {"train": {"train_1", "train_2"}, "val": {"valid_1"}}


def test_luna16(tmp_path):
    root = tmp_path / "luna"
    for fold in range(10):
        (root / f"subset{fold}").mkdir(parents=True)
        sitk.WriteImage(sitk.GetImageFromArray(HU), str(root / f"subset{fold}" / f"1.3.6.1.4.1.{fold}.mhd"))
    (root / "seg-lungs-LUNA16").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(HU), str(root / "seg-lungs-LUNA16" / "1.3.6.1.4.1.0.mhd"))
    rows = rows_of("luna16", root, "dataset.n_folds=10", "dataset.fold=3").set_index("fold")
    assert len(rows) == 10 and rows["split"][3] == "test" and rows["split"][4] == "val"


def test_totalsegmentator(tmp_path):
    root = tmp_path / "total"
    for name in ("s0000", "s0001", "s0002"):
        save_nifti(root / name / "ct.nii.gz", HU)
        save_nifti(root / name / "segmentations" / "heart.nii.gz", HU > 0)
    (root / "meta.csv").write_text("image_id;age;split\ns0000;50;train\ns0001;60;val\ns0002;70;test\n")
    rows = rows_of("totalsegmentator", root)
    assert {ct.partition("/")[0]: split for ct, split in zip(rows["ct"], rows["split"], strict=True)} == {
        "s0000": "train", "s0001": "val", "s0002": "test"}  # fmt: skip


def test_rad_chestct(tmp_path):
    (tmp_path / "rad").mkdir()
    for name in ("trn00001", "val00002", "tst00003"):
        np.savez_compressed(tmp_path / "rad" / f"{name}.npz", ct=HU.clip(-1000, 1000)[::-1])
    rows = rows_of("rad_chestct", tmp_path / "rad")
    assert dict(zip(rows["id"], rows["split"], strict=True)) == {
        "trn00001": "train",
        "val00002": "val",
        "tst00003": "test",
    }


def study(root, patient, study_uid, *kernels):
    """A study of TCIA: `<patient>/<study>/<series>/*.dcm`, one series for each array."""
    for number, hu in enumerate(kernels):
        place = root / patient / f"01-01-2000-{study_uid}" / f"{number}.000000-CHEST"
        write(place, hu, patient=patient, study_uid=f"1.2.{study_uid}", series_uid=f"1.2.{study_uid}.{number}")


def test_dicom_by_patient(tmp_path):
    """LIDC-IDRI and NLST: several studies of a patient are of one patient, and one series of a study is chosen."""
    for number, patient in enumerate(("100001", "100002", "100003")):
        study(tmp_path / "tcia", patient, 10 + number, OTHER + number, OTHER + 10 + number)
    study(tmp_path / "tcia", "100001", 20, OTHER + 20)
    manifest, _ = run(
        tmp_path / "tcia", tmp_path / "set", min_vessel_hu="null", max_hours="null", crop_box="whole", spacing="null"
    )
    assert len(manifest) == 4 and manifest["patient"].nunique() == 3
    for name in ("lidc", "nlst"):
        rows = rows_of(name, tmp_path / "set")
        assert set(rows["split"]) == {"train", "val", "test"}
        assert (rows.groupby("patient")["split"].nunique() == 1).all()


def test_radiographs_and_ct_of_a_patient_become_pairs(tmp_path):
    root = tmp_path / "covid"
    for number, patient in enumerate(("A000001", "A000002", "A000003")):
        study(root, patient, 30 + number, OTHER + number)
        if number < 2:
            place = root / patient / "01-01-2000-99" / "1.000000-AP"
            place.mkdir(parents=True)
            save_radiograph(place / "1-1.dcm", patient=patient, view="AP")
    options = {"unpaired": "skip", "min_vessel_hu": "null", "crop_box": "whole", "spacing": "null"}
    run(root, tmp_path / "set", **options)
    for name in ("covid_19_ny_sbu", "covid_19_ar"):
        rows = rows_of(name, tmp_path / "set")
        assert len(rows) == 2 and set(rows["xray_source"]) == {"film"} and set(rows["view"]) == {"AP"}


def test_rspect(tmp_path):
    """`train/<study>/<series>/*.dcm`, patients unnamed, and a table of images with the labels of exams."""
    lines = ["StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,negative_exam_for_pe,indeterminate"]
    for number, (negative, indeterminate) in enumerate(((1, 0), (0, 0), (0, 1))):
        uids = {"study_uid": f"1.2.{50 + number}", "series_uid": f"1.2.{50 + number}.1"}
        place = tmp_path / "rspect" / "train" / uids["study_uid"] / uids["series_uid"]
        write(place, OTHER + number, patient=f"{number:012x}", **uids)
        lines += [f"{uids['study_uid']},{uids['series_uid']},{image},{negative},{indeterminate}" for image in range(3)]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    options = {"min_vessel_hu": "null", "crop_box": "whole", "spacing": "null"}
    manifest, _ = run(tmp_path / "rspect", tmp_path / "set", from_csv=tmp_path / "train.csv", **options)
    labels = dict(zip(manifest["patient_raw"], manifest["label"], strict=True))
    assert labels == {f"{0:012x}": 0, f"{1:012x}": 1, f"{2:012x}": -1}
    rows = rows_of("rspect", tmp_path / "set")
    assert set(rows["split"]) == {"train", "val", "test"} and sorted(rows["label"]) == [-1, 0, 1]
    assert not rows["xray_source"].isin(["film"]).any()
