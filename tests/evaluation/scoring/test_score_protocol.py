"""A frozen protocol: it scores volumes of anybody, and refuses changed truths and missing or odd predictions."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from common.errors import UserError
from common.files import sha256
from dataset.io.nifti import write_nifti
from evaluation.scoring.frozen_protocol import FrozenProtocol, freeze, grid_of, read_protocol
from evaluation.scoring.patient_table import MEDIAN, by_patient, latex
from evaluation.scoring.score_protocol import score_protocol

METRICS = ["psnr", "psnr_body", "mae_hu", "crps"]
POSES = ("pa", "tilted")
SIZE = 16


def chest(radius: float) -> np.ndarray:
    d, h, w = np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 24, 28)), indexing="ij")
    hu = np.where(np.hypot(h, w) < 0.9, 40.0, -1000.0)
    for side in (-0.42, 0.42):
        hu[(np.hypot(h, w - side) < radius) & (abs(d) < 0.8)] = -850.0
    return hu


@pytest.fixture
def protocol(tmp_path) -> FrozenProtocol:
    data, patients = tmp_path / "data", {"a": 0.3, "b": 0.35, "c": 0.25}
    files = {name: data / f"{name}.nii.gz" for name in patients}
    for name, path in files.items():
        write_nifti(path, chest(patients[name]), (15.0, 12.0, 12.0), (1.0, 2.0, 3.0), "a test chest")
    content = {"name": "test", "version": 1, "data": str(data), "sizes": [SIZE], "window": "wide", "metrics": METRICS}
    content |= {"selection": ["a", "b"], "held_out": ["c"]}
    content["poses"] = {pose: {name: [float(i) for i in range(9)] for name in files} for pose in POSES}
    ramp = torch.linspace(0, 1, 24).expand(24, 24)
    freeze(tmp_path / "protocol", content, {f"{name}_{pose}": ramp for name in files for pose in POSES}, files)
    return read_protocol(tmp_path / "protocol")


@pytest.fixture
def predictions(protocol, tmp_path):
    folder = tmp_path / "predictions"
    for patient in protocol.patients:
        volume = grid_of(protocol.truth(patient, SIZE))
        for pose, error in zip(POSES, (20.0, 40.0), strict=True):
            write_nifti(folder / f"{patient}_{pose}.nii.gz", volume.hu + error, volume.spacing, volume.centre)
    return folder


def test_xrays_keep_16_bits_and_poses_their_numbers(protocol):
    assert torch.allclose(protocol.xray("a", "pa")[0], torch.linspace(0, 1, 24), atol=1e-5)
    case = protocol.case("c", "tilted", SIZE)
    assert case["pose"].tolist() == [list(range(9))] and case["xray"].shape == (1, 24, 24)
    assert case["ct"].shape == (SIZE,) * 3 and bool(case["scanned"].all())
    assert protocol.stage("a") == "selection" and protocol.stages("held_out") == ["c"]
    with pytest.raises(UserError, match="stage=test: choose selection, held_out or all"):
        protocol.stages("test")


def test_volumes_get_a_table_by_patient(protocol, predictions, tmp_path):
    result = score_protocol(protocol, predictions, method="mine").write(tmp_path / "out")
    assert set(result["methods"]) == {"mine"} and result["protocol"]["cases"] == 6
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert list(table.patient) == ["a", "b", "c", MEDIAN]
    assert np.allclose(table.mae_hu, 30.0, atol=0.5) and np.allclose(table.crps, table.mae_hu)
    assert np.allclose(table.psnr_body, (40.0 + 33.98) / 2, atol=0.2)
    text = (tmp_path / "out" / "table.tex").read_text()
    assert text.count("\\\\") == 5 and "\\toprule" in text and "PSNR" in text
    few = score_protocol(protocol, predictions, stage="held_out").protocol
    assert few["patients"] == 1 and few["split"] == "held_out"


def test_a_missing_or_odd_prediction_is_one_line(protocol, predictions, tmp_path):
    def score():
        return score_protocol(protocol, predictions)

    volume = grid_of(protocol.truth("a", SIZE))
    path = predictions / "a_pa.nii.gz"
    write_nifti(path, volume.hu, (9.0, 9.0, 9.0), volume.centre)
    with pytest.raises(UserError, match="spacing .* resample the prediction"):
        score()
    write_nifti(path, volume.hu[:12], volume.spacing, volume.centre)
    with pytest.raises(UserError, match="12 slices; protocol test has"):
        score()
    path.unlink()
    with pytest.raises(UserError, match=r"1 of 6 volumes are missing \(a_pa.nii.gz\)"):
        score()
    write_nifti(path, volume.hu, volume.spacing, volume.centre)
    write_nifti(predictions / "d_pa.nii.gz", volume.hu, volume.spacing, volume.centre)
    with pytest.raises(UserError, match="d_pa is no X-ray of protocol test"):
        score()
    with pytest.raises(UserError, match="no such folder"):
        score_protocol(protocol, tmp_path / "nowhere")


def test_a_changed_truth_or_xray_is_refused(protocol, predictions, tmp_path):
    (protocol.folder / "b_pa.png").write_bytes(b"another picture")
    with pytest.raises(UserError, match="b_pa.png: missing or not the X-ray"):
        score_protocol(protocol, predictions)
    write_nifti(protocol.file("c"), chest(0.33), (15.0, 12.0, 12.0))
    fresh = read_protocol(protocol.folder)
    from evaluation.scoring import frozen_protocol

    frozen_protocol._truth.cache_clear()
    with pytest.raises(UserError, match="c.nii.gz: SHA-256 .* frozen, restore"):
        fresh.truth("c", SIZE)
    content = json.loads((protocol.folder / "protocol.json").read_text())
    content["truths"]["a"]["mean_hu"][str(SIZE)] += 2.0
    with pytest.raises(UserError, match="the resampling has changed"):
        FrozenProtocol(tmp_path, content).truth("a", SIZE)
    with pytest.raises(UserError, match="protocol=nothing: no "):
        read_protocol("nothing")
    with pytest.raises(UserError, match="frozen already"):
        freeze(protocol.folder, {}, {}, {})


def test_the_median_is_that_of_patients_not_of_cases():
    scores = pd.DataFrame({"method": "m", "patient": list("aaabc"), "psnr": [1.0, 2.0, 3.0, 10.0, 20.0]})
    table = by_patient(scores, ["psnr", "ssim"])
    assert list(table.psnr) == [2.0, 10.0, 20.0, 10.0] and list(table.columns) == ["method", "patient", "psnr"]
    assert "a\\_b \\& 100\\%" in latex(table, {}, "a_b & 100%")


def test_the_chest_protocol_is_that_of_the_shipped_chests():
    protocol = read_protocol("chests")
    assert len(protocol.patients) == 7 and not set(protocol.content["selection"]) & set(protocol.content["held_out"])
    for patient in protocol.patients:
        assert sha256(protocol.file(patient)) == protocol.content["truths"][patient]["sha256"]
        images = [protocol.xray(patient, pose) for pose in protocol.poses]
        assert all(image.shape == (128, 128) and float(image.max()) == 1.0 for image in images)
        assert all(float((image - images[0]).abs().mean()) > 0.005 for image in images[1:])
    case = protocol.case(protocol.patients[0], "pa", 64)
    assert case["ct"].shape == (64, 64, 64) and float(case["ct"].min()) >= -1024.0
