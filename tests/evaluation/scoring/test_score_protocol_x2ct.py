"""X2CT-GAN's metrics equal their definition slice by slice; its protocol scores exactly the test cases."""

import numpy as np
import pytest
import torch
from chest_files import save_x2ct, thorax
from skimage.metrics import structural_similarity

from common.errors import UserError
from dataset.io.ct import read_volume
from dataset.io.nifti import write_nifti
from evaluation.metrics import x2ct
from evaluation.scoring import score_protocol as protocol
from evaluation.scoring.score_protocol import at_side, score_x2ct

SIDE = 20  # voxels, in place of 128, which takes seconds
CASES = ["LIDC-IDRI-0001.1.1", "LIDC-IDRI-0002.2.1", "LIDC-IDRI-0003.3.1"]


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, (9, 10, 11))
    return truth, (truth + rng.normal(0, 0.1, truth.shape)).clip(0, 1)


def test_values_are_hu_plus_1024_over_2500():
    hu = torch.tensor([-2000.0, -1024.0, 226.0, 1476.0, 3000.0]).reshape(5, 1, 1)
    np.testing.assert_allclose(x2ct.normalised(hu).ravel(), [0, 0, 0.5, 1, 1])


def test_psnr_is_of_whole_hu_with_the_peak_of_12_bits(pair):
    truth, prediction = pair
    error = np.floor(truth * 2500) - np.floor(prediction * 2500)
    assert x2ct.psnr(truth, prediction) == pytest.approx(20 * np.log10(4095 / np.sqrt((error**2).mean())))
    slices = [20 * np.log10(4095 / np.sqrt((error[:, i] ** 2).mean())) for i in range(10)]
    assert x2ct.psnr(truth, prediction, 1) == pytest.approx(np.mean(slices))
    assert x2ct.psnr(truth, truth) == x2ct.psnr(truth, truth, 0) == 100.0


def test_ssim_is_the_mean_over_slices_of_an_axis(pair):
    truth, prediction = pair
    for axis in range(3):
        slices = zip(np.moveaxis(truth, axis, 0), np.moveaxis(prediction, axis, 0), strict=True)
        expected = np.mean([structural_similarity(a, b, data_range=1.0) for a, b in slices])
        assert x2ct.ssim(truth, prediction, axis) == pytest.approx(expected)
    assert x2ct.cosine(truth, truth) == pytest.approx(1.0) and x2ct.cosine(truth, 1 - truth) < 0.9


@pytest.fixture
def data(tmp_path, monkeypatch):
    assert protocol.SIDE == 128
    monkeypatch.setattr(protocol, "SIDE", SIDE)
    for seed, case in enumerate(CASES):
        save_x2ct(tmp_path / "data" / case / "ct_xray_data.h5", thorax(size=(16, 16, 16), seed=seed))
    (tmp_path / "data" / "train.txt").write_text(CASES[0])
    (tmp_path / "data" / "test.txt").write_text("\n".join(CASES[1:]))
    return tmp_path / "data"


def predict(data, folder, change=0.0):
    for case in CASES[1:]:
        volume = at_side(read_volume(data / case / "ct_xray_data.h5"))
        write_nifti(folder / f"{case}.nii.gz", volume.hu + change, volume.spacing, volume.centre, "a prediction")
    return folder


def test_the_truth_itself_scores_perfectly_and_an_offset_as_defined(data, tmp_path):
    perfect = score_x2ct(data, predict(data, tmp_path / "same")).scores.query("method == 'model'")
    assert list(perfect["id"]) == CASES[1:] and set(perfect["patient"]) == {"LIDC-IDRI-0002", "LIDC-IDRI-0003"}
    assert (perfect["x2ct_ssim"] > 0.999).all() and (perfect["x2ct_mae"] < 1e-3).all()
    scored = score_x2ct(data, predict(data, tmp_path / "off", 25.0))
    assert scored.protocol["volume_size"] == [SIDE] * 3
    assert scored.scores.query("method == 'model'")["x2ct_mae"].to_numpy() == pytest.approx(0.01, abs=1e-3)


def test_every_test_case_is_scored_and_no_other(data, tmp_path):
    folder = predict(data, tmp_path / "p")
    (folder / f"{CASES[1]}.nii.gz").rename(folder / "other.nii.gz")
    with pytest.raises(UserError, match="1 of 2 test cases are missing"):
        score_x2ct(data, folder)
    (folder / "other.nii.gz").rename(folder / f"{CASES[1]}.nii.gz")
    (folder / f"{CASES[0]}.nii.gz").write_bytes((folder / f"{CASES[1]}.nii.gz").read_bytes())
    with pytest.raises(UserError, match="is no test case"):
        score_x2ct(data, folder)
    (data / "test.txt").unlink()
    with pytest.raises(UserError, match="no test case of X2CT-GAN"):
        score_x2ct(data, folder)
