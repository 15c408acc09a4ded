"""X-rays of a folder: aligned by their lungs, DRRs by their settings, two views, and input volumes."""

import os
import shutil

import numpy as np
import pytest
import torch
from chest_files import save_nifti, thorax
from folder_sources import data_module, film, source
from PIL import Image
from radiograph_files import save_radiograph

from common.errors import UserError
from dataset.cases.store import prepare_cases, read_case
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.forward_model import ForwardModel
from dataset.imaging.lung_network import lung_box_in_image
from dataset.xray.lung_alignment import expected_box


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def test_frontal_and_lateral_xrays_become_two_views(root):
    save_nifti(root / "a.nii.gz", thorax())
    for name in ("front.png", "side.png"):
        film(root / name)
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[::-1] * 3, (64, 1))).save(root / "side.png")
    (root / "manifest.csv").write_text("id,patient,ct,xray,view\nA,1,a.nii.gz,side.png;front.png,lateral;AP\n")
    case = read_case(prepare_cases(source(root, views=2), root.parent / "cache", 0)[0])
    assert case["pose"][:, 2].tolist() == [180.0, 90.0] and case["pose"][:, 0].isnan().all()
    assert case["xray"][0, 12, -1] > 0.9 and case["xray"][1, 12, 0] > 0.9  # the frontal came first
    single = read_case(prepare_cases(source(root), root.parent / "cache", 0)[0])
    assert single["xray"].shape[0] == 1 and single["pose"][0, 2] == 180.0


def test_the_drr_of_a_contrast_ct_is_marked(root, monkeypatch):
    save_nifti(root / "a.nii.gz", thorax())
    monkeypatch.setattr("dataset.sources.folder.measure_iodine", lambda hu, spacing: 200.0)
    found = {}
    for remove in (False, True):
        made = source(root, drr=DrrSettings(remove_iodine=remove))
        data = data_module(made, root.parent / "cache")
        found[remove] = (data.train.rows["xray_source"].tolist(), data.protocol()["xray_sources"])
    assert found == {False: (["drr_contrast"], {"drr_contrast": 1}), True: (["drr"], {"drr": 1})}


def test_a_forward_model_is_stated_only_where_this_project_rendered_every_xray(root):
    save_nifti(root / "a.nii.gz", thorax())
    drr = DrrSettings(photons=1e4)
    assert source(root, drr=drr).forward_model() == drr.forward_model()
    save_nifti(root / "b.nii.gz", thorax(seed=1))
    film(root / "b.png")
    mixed = data_module(source(root, drr=drr), root.parent / "cache").protocol()
    assert mixed["forward_model"] is None is ForwardModel.of_protocol(mixed)
    table = "id,patient,ct,xray,xray_source\nB,2,b.nii.gz,b.png,drr\n"  # DRRs of another renderer
    (root / "manifest.csv").write_text(table)
    foreign = data_module(source(root, drr=drr), root.parent / "cache").protocol()
    assert foreign["xray_sources"] == {"drr": 1} and ForwardModel.of_protocol(foreign) is None


def test_options_of_drrs_change_the_keys_of_drrs_alone(root):
    save_nifti(root / "a.nii.gz", thorax())
    save_nifti(root / "b.nii.gz", thorax(seed=1))
    film(root / "b.png")
    keys = [
        [made.key(row) for row in made.rows.to_dict("records")]
        for made in (source(root), source(root, drr=DrrSettings(view="AP")))
    ]
    assert keys[0][0] != keys[1][0] and keys[0][1] == keys[1][1]


def test_xrays_are_aligned_to_the_lungs_of_the_training_volumes(root, real_data):
    for name in ("lidc-idri-0001_ctiv", "cip-ct64_ct"):
        os.makedirs(root, exist_ok=True)
        shutil.copy(real_data / "ct" / f"{name}.nii.gz", root)
    shutil.copy(real_data / "xray" / "hannover_2cd63b76.png", root / "cip-ct64_ct.png")
    found = {}
    for align in ("none", "lungs"):
        made = source(root, align=align, volume_size=(48, 48, 48), xray_size=(96, 96))
        made.rows["split"] = "train"
        data = data_module(made, root.parent / "cache")
        protocol = data.protocol()
        index = data.train.rows["xray_source"].tolist().index("film")
        case, item = data.train.case(index), data.train[index]
        torch.testing.assert_close(item["xray"][:, 0], case["xray"].float(), atol=1e-3, rtol=0, equal_nan=True)
        found[align] = case["xray"][0].float()
    target = torch.tensor(expected_box(protocol["lung_box"], protocol["extent"]))
    boxes = {align: lung_box_in_image(image) for align, image in found.items()}
    assert (boxes["lungs"] - target).abs().max() < 0.06 < (boxes["none"] - target).abs().max()
    assert protocol["align"] == "lungs" and len(protocol["lung_box"]) == 6


def test_the_spacing_of_an_xray_without_pose_is_nominal(root, monkeypatch):
    """A small and a large patient have the same spacing, as in generation."""
    seen = []
    monkeypatch.setattr("dataset.cases.case_dataset.lung_map", lambda image, box, extent, view: seen.append(extent))
    monkeypatch.setattr("dataset.cases.description.median_lung_box", lambda paths: [0.2, 0.8] * 3)
    for name, spacing in (("a", (4.0, 4.0, 4.0)), ("b", (9.0, 6.0, 8.0)), ("c", (5.0, 5.0, 5.0))):
        save_nifti(root / f"{name}.nii.gz", thorax(), spacing)
        film(root / f"{name}.png")
    save_nifti(root / "drr.nii.gz", thorax(), (9.0, 6.0, 8.0))
    made = source(root, align="lungs")
    made.rows["split"] = "train"
    data = data_module(made, root.parent / "cache")
    extent, before, own = tuple(data.protocol()["extent"]), len(seen), []
    for index, kind in enumerate(data.train.rows["xray_source"]):
        own.append(tuple((data.train.case(index)["spacing"] * 12).tolist()))
        given = tuple((data.train[index]["spacing"] * 12).tolist())
        assert given == pytest.approx(own[-1] if kind == "drr" else extent, rel=1e-5)
        assert data.train.condition(index, step=index)["pose"].isnan().any() == (kind != "drr")
    assert len(set(own)) == 3
    assert seen and len(seen) - before <= 3  # once for each X-ray of a set, whatever is read how often
    assert all(one == pytest.approx(extent, rel=1e-5) for one in seen)


def test_a_warning_names_xrays_without_lungs(root, caplog, monkeypatch):
    monkeypatch.setattr("dataset.cases.description.median_lung_box", lambda paths: [0.2, 0.8] * 3)
    for name in ("a", "b", "drr"):
        save_nifti(root / f"{name}.nii.gz", thorax())
    film(root / "a.png")
    film(root / "b.png")
    for align in ("none", "lungs"):
        caplog.clear()
        made = source(root, align=align)
        made.rows["split"] = "train"
        data_module(made, root.parent / "cache")
        warned = [record.getMessage() for record in caplog.records if "no lungs" in record.getMessage()]
        assert len(warned) == (align == "lungs")
    assert "X-rays of 2 cases" in warned[0] and "drr" not in warned[0]
    assert all(name in warned[0] for name in made.rows.loc[made.rows["xray"] != "", "id"])


def test_contrast_of_the_manifest_stays(root, monkeypatch):
    monkeypatch.setattr("dataset.sources.folder.measure_iodine", lambda hu, spacing: 0.0)
    save_nifti(root / "a.nii.gz", thorax())
    save_nifti(root / "b.nii.gz", thorax())
    table = "id,patient,ct,xray_source\nA,1,a.nii.gz,drr_contrast\nB,2,b.nii.gz,drr\n"
    (root / "manifest.csv").write_text(table)
    for remove, expected in ((False, ["drr_contrast", "drr"]), (True, ["drr", "drr"])):
        made = source(root, drr=DrrSettings(remove_iodine=remove))
        made.rows["split"] = "train"
        data = data_module(made, root.parent / "cache")
        assert data.train.rows["xray_source"].tolist() == expected


def test_one_volume_can_be_the_source_of_another(root):
    save_nifti(root / "a.nii.gz", thorax())
    save_nifti(root / "b.nii.gz", thorax() + 200)
    (root / "manifest.csv").write_text("id,patient,early,late\nA,1,a.nii.gz,b.nii.gz\n")
    options = {"source_column": "early", "target_column": "late", "source_window": [-1000, 1000]}
    made = source(root, volume_size=(10, 12, 14), xray_size=(12, 14), **options)
    case = read_case(prepare_cases(made, root.parent / "cache", 0)[0])
    assert case["xray"].shape == (10, 12, 14) and case["pose"].shape == (10, 9) and case["pose"].isnan().all()
    expected = ((case["ct"].float() - 200).clamp(-1000, 1000) + 1000) / 2000
    assert (case["xray"].float() - expected).abs().mean() < 0.02
    assert made.rows["xray_source"].tolist() == ["volume"] and made.describe()["input"] == "volume"
    with pytest.raises(UserError, match="no column never"):
        _ = source(root, **{**options, "source_column": "never"}).rows


def test_the_view_of_a_dicom_header_counts_where_the_manifest_has_none(root):
    for name, view in (("a", "AP"), ("b", "PA")):
        save_nifti(root / f"{name}.nii.gz", thorax())
        save_radiograph(root / f"{name}.dcm", view=view)
    given = "id,patient,ct,xray,view\nA,1,a.nii.gz,a.dcm,PA\nB,2,b.nii.gz,b.dcm,\n"
    for table, azimuths in ((None, [180.0, 0.0]), (given, [0.0, 0.0])):
        if table:
            (root / "manifest.csv").write_text(table)
        paths = prepare_cases(source(root), root.parent / "cache", 0)
        assert [float(read_case(path)["pose"][0, 2]) for path in paths] == azimuths


def test_films_in_another_column_are_films(root):
    save_nifti(root / "cts" / "a.nii.gz", thorax())
    film(root / "films" / "a.png")
    (root / "manifest.csv").write_text("id,patient,volume,picture\nA,1,cts\\a.nii.gz,films\\a.png\n")
    made = source(root, source_column="picture", target_column="volume")
    assert made.rows["xray_source"].tolist() == ["film"] and made.rows["xray"].tolist() == ["films/a.png"]
    assert read_case(prepare_cases(made, root.parent / "cache", 0)[0])["pose"].isnan().all()
