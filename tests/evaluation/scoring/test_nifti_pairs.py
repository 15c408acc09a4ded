"""Scoring files: the same number as from tensors, and a line with both values where two files do not match."""

import json
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from evaluation_fakes import chest_world, score
from forked_command import run_command

from common.errors import UserError
from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.imaging.hu_window import Window
from dataset.io.nifti import write_nifti
from evaluation.scoring.comparison import compare, read_result
from evaluation.scoring.nifti_pairs import match, read_pair
from evaluation.scoring.score_cases import score_case
from evaluation.scoring.score_files import score_files

WIDE = Window(-1000.0, 1000.0)
SPACING = (12.0, 10.0, 14.0)


@pytest.fixture
def folders(tmp_path):
    cases = chest_world(3, 3)
    for index in range(3):
        hu = cases.case(index)["ct"].float()
        noise = torch.randn(hu.shape, generator=torch.Generator().manual_seed(index))
        write_nifti(tmp_path / "true" / f"c{index}.nii.gz", hu, SPACING, (5.0, 6.0, 7.0), "truth")
        write_nifti(tmp_path / "made" / f"c{index}_made.nii.gz", hu + 50.0 * noise, SPACING, (5.0, 6.0, 7.0))
        write_nifti(tmp_path / "better" / f"c{index}.nii.gz", hu + 25.0 * noise, SPACING, (5.0, 6.0, 7.0))
    return tmp_path


def test_files_score_as_their_tensors_and_compare_with_each_other(folders):
    made = score_files(match(folders / "true", folders / "made", "_made"), WIDE).write(folders / "a")
    better = score_files(match(folders / "true", folders / "better"), WIDE, method="other", samples=4).write(
        folders / "b"
    )
    case, volume = read_pair(folders / "true" / "c1.nii.gz", folders / "made" / "c1_made.nii.gz")
    rows = (folders / "a" / "cases.csv").read_text().splitlines()
    line = dict(zip(rows[0].split(","), next(r for r in rows if r.startswith("c1,c1,model")).split(","), strict=True))
    assert float(line["psnr"]) == pytest.approx(score(volume, case, WIDE, ["psnr"])["psnr"], abs=1e-5)
    assert made["protocol"]["estimator"] == "point" and better["protocol"]["estimator"] == "mean of 4 samples"
    assert made["protocol"]["not_measured"]["reprojection"] == "the data do not state how their X-rays came about"
    pair = [read_result(key, folders / key) for key in "ab"]
    assert compare(*pair, "model", "other")["differences"]["psnr"]["mean"] == pytest.approx(-6.0, abs=0.7)


def test_a_file_in_another_orientation_is_the_same_volume(folders):
    path = folders / "made" / "c0_made.nii.gz"
    before = read_pair(folders / "true" / "c0.nii.gz", path)[1]
    nib.save(nib.load(path).as_reoriented([[0, -1], [1, -1], [2, 1]]), path)
    assert torch.equal(read_pair(folders / "true" / "c0.nii.gz", path)[1], before)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda hu: (hu[1:], SPACING, (5.0, 6.0, 7.0)), r"\(23, 24, 24\) voxels.*\(24, 24, 24\)"),
        (lambda hu: (hu, (12.0, 10.5, 14.0), (5.0, 6.0, 7.0)), r"spacing \[12, 10.5, 14\] mm.*\[12, 10, 14\]"),
        (lambda hu: (hu, SPACING, (5.0, 9.0, 7.0)), "voxels from .* resample the prediction"),
    ],
)
def test_another_grid_is_refused_with_both_and_never_resized(folders, change, line):
    hu = chest_world(3, 3).case(0)["ct"].float()
    volume, spacing, centre = change(hu)
    write_nifti(folders / "made" / "c0_made.nii.gz", volume, spacing, centre)
    with pytest.raises(UserError, match=line) as refusal:
        read_pair(folders / "true" / "c0.nii.gz", folders / "made" / "c0_made.nii.gz")
    assert "c0_made.nii.gz" in str(refusal.value) and "true" in str(refusal.value)


def test_a_prediction_may_be_clipped_to_the_window_of_the_metrics(folders):
    true, made = folders / "true" / "c0.nii.gz", folders / "made" / "c0_made.nii.gz"
    hu = chest_world(3, 3).case(0)["ct"].float().clamp(-125.0, 275.0)
    write_nifti(made, hu, SPACING, (5.0, 6.0, 7.0))
    assert torch.equal(read_pair(true, made, clipped_at=-125.0)[1], hu)
    for clipped_at in (None, -1000.0):  # without a window, and with one that has air
        with pytest.raises(UserError, match="c0_made.nii.gz: no HU in range, .* neither air nor lung"):
            read_pair(true, made, clipped_at)


def test_cases_without_a_partner_are_refused(folders):
    with pytest.raises(UserError, match="3 of 3 cases are missing .c0: no c0.nii.gz.*suffix="):
        match(folders / "true", folders / "made")
    (folders / "better" / "c2.nii.gz").unlink()
    with pytest.raises(UserError, match="1 of 3 cases are missing .c2"):
        match(folders / "true", folders / "better")
    with pytest.raises(UserError, match="c2_made has no truth"):
        (folders / "true" / "c2.nii.gz").unlink()
        match(folders / "true", folders / "made", "_made")
    with pytest.raises(UserError, match="truth=None: no such folder"):
        match(None, folders / "made")
    nib.save(nib.load(folders / "true" / "c0.nii.gz"), folders / "true" / "c0.nii")
    with pytest.raises(UserError, match="have the same id c0"):
        match(folders / "true", folders / "made", "_made")


def test_patients_come_from_a_table_that_lists_every_case(folders):
    pairs, table = match(folders / "true", folders / "better"), folders / "patients.csv"
    table.write_text("id,patient\nc0,p\nc1,p\nc2,q\n")
    found = score_files(pairs, WIDE, patients=str(table), metrics=["psnr"]).protocol
    assert found["patients"] == 2 and found["cases"] == 3
    for text, line in (
        ("id,patient\nc0,p\n", "no row for c1 and 1 others"),
        ("id,name\nc0,p\n", "it needs id and patient"),
        ("id,patient\nc0,p\nc0,q\n", "two rows with id c0"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=line):
            score_files(pairs, WIDE, patients=str(table))


@pytest.mark.slow
def test_the_commands_score_and_refuse_in_one_line(folders):
    run = partial(run_command, "evaluation/score.py")

    done = run(f"truth={folders}/true", f"prediction={folders}/better", f"output={folders}/out", "metrics=[psnr]")
    assert done.returncode == 0, done.stderr
    assert json.loads((folders / "out" / "metrics.json").read_text())["methods"]["model"]["psnr"]["mean"] > 30
    grey = np.linspace(0, 255, 24**3).reshape(24, 24, 24)
    write_nifti(folders / "better" / "c1.nii.gz", grey, SPACING, (5.0, 6.0, 7.0))
    given = [f"truth={folders}/true", f"prediction={folders}/better", f"output={folders}/out"]
    again = run(*given)
    assert again.returncode == 1 and "cases.csv: of an earlier run; give another folder" in again.stderr
    refused = run(*given, "overwrite=true")
    assert refused.returncode == 1 and "c1.nii.gz: no HU in range" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert (folders / "out" / "metrics.json").is_file()  # a refused run keeps the earlier results


def test_marks_of_the_truth_leave_voxels_out(tmp_path):
    hu = np.random.default_rng(0).integers(-900, 300, (6, 5, 4)).astype(np.float32)
    truth, predicted = hu.copy(), hu + 10.0
    truth[4:], predicted[4:] = NOT_SCANNED_HU, 999.0
    for name, values in (("truth", truth), ("prediction", predicted)):
        write_nifti(tmp_path / f"{name}.nii.gz", values, (2.0, 2.0, 2.0))
    case, volume = read_pair(tmp_path / "truth.nii.gz", tmp_path / "prediction.nii.gz")
    assert case["scanned"][:4].all() and not case["scanned"][4:].any()
    found = score_case(case, {"model": volume}, Window(-1000.0, 1000.0), metrics=["mae_hu"])[0]
    assert found["mae_hu"] == pytest.approx(10.0)


def test_hidden_files_are_no_cases(tmp_path):
    for place in ("truth", "prediction"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.nii.gz").touch()
    (tmp_path / "truth" / "._a.nii.gz").write_bytes(bytes(4096))
    assert list(match(tmp_path / "truth", tmp_path / "prediction")) == ["a"]
