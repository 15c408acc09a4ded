"""The benchmark of coverage under shifts: its tables, its changes, and volumes of another patient."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.fidelity import coverage
from evaluation.intervals.input_shift import InputShift

TEST = InputShift([], [], [], [13.0, 1.0])  # the 0.9 quantile of the distances below


def rows(shift: str, count: int, seed: int, error: float = 1.0, chi2: float = 1.0) -> list[dict]:
    """Errors, statistics and chi² of cases; those of a shift are larger by these factors."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        score = float(error * rng.gamma(4.0))
        numbers = {"chi2": float(chi2 * rng.gamma(9.0)), "distance": float(rng.gamma(9.0)), "exponent": 0.0}
        found.append({"shift": shift, "id": "x", **numbers, "scores": {"soft": [score, score]}})
    return found


def test_exchangeable_cases_keep_level_and_share_and_a_contradicted_xray_claims_nothing():
    everything = rows("calibration", 400, 0) + rows("unchanged", 1000, 1)
    everything += rows(coverage.OTHER, 50, 2, error=4.0, chi2=20.0) + rows("blur (3×3 mean)", 50, 3, error=4.0)
    text = coverage.tables(everything, TEST, 0.9).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text if line.startswith("|")]
    whole, claimed = ({row[0]: row[1:] for row in cells if len(row) == n} for n in (4, 3))
    assert abs(float(whole["unchanged"][1]) - 0.05) < 0.05 and 0.85 < float(whole["unchanged"][2].split()[0]) < 0.95
    assert whole[coverage.OTHER][1] == "1.000" and whole[coverage.OTHER][2].startswith("**")
    assert claimed[coverage.OTHER] == ["0", "–"]
    assert claimed["blur (3×3 mean)"][1].startswith("**")  # a shift that the test does not see is marked


def test_volumes_of_another_patient_are_compared_with_the_xray_that_is_given():
    class Part:
        def measurement(self, xray, pose, extent):
            return SimpleNamespace(chi2=lambda clean: (clean.mean() - xray.mean()).square()[None])

    class Pipeline:
        consistency = Part()

        def __call__(self, xray, pose, num_samples, extent, preview, **options):
            clean = xray.mean(dim=(1, 2, 3, 4)).repeat_interleave(num_samples).view(-1, 1, 1, 1, 1)
            preview(1, clean)
            preview(2, 0.0 * clean)
            return SimpleNamespace(
                volumes=clean.view(len(xray), num_samples, 1, 1, 1), first_chi2=None, chi2=None, films=None
            )

    xrays = torch.arange(3.0).view(3, 1, 1, 1, 1)
    found = coverage.OtherPatient(Pipeline())(xrays, torch.zeros(3, 1, 9), 2, extent=torch.ones(3, 3), seed=0)
    assert found.volumes[:, 0].flatten().tolist() == [2.0, 0.0, 1.0]
    assert found.first_chi2.tolist() == pytest.approx([4.0, 1.0, 1.0])


def test_phantoms_of_every_part_are_others_and_of_the_population():
    protocol = {
        "extent": [320.0, 256.0, 352.0], "pe_share": 0.5, "sign_rate": 0.6, "split": {"train": 5}, "seed": 3,
        "xray_size": [32, 32], "photons": 8e5, "oversample": 2, "volume_size": [16, 16, 16],
    }  # fmt: skip
    usual = coverage.source_of(protocol).describe()
    assert {key: usual[key] for key in ("seed", "pe_share", "oversample", "photons")} == {
        key: protocol[key] for key in ("seed", "pe_share", "oversample", "photons")
    }
    for shift in coverage.POPULATIONS:
        assert coverage.source_of(protocol, shift=shift).describe() != usual
    assert set(coverage.FIRST.values()).isdisjoint({20_000_000, coverage.SHIFTED_FROM})
    xray = torch.rand(1, 32, 32)
    for name, change in coverage.CHANGES.items():
        changed = change(xray)
        assert changed.shape == xray.shape and not torch.equal(changed, xray), name
        assert changed.min() >= 0.0 and changed.max() <= 1.0
