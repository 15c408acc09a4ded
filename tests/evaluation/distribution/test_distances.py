"""Distances of distributions against SciPy, torchmetrics and closed forms; extractors with local weights."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.kid import poly_mmd
from torchvision.models import resnet18

from common.errors import UserError
from evaluation.distribution.distances import compare_populations, frechet_distance, mmd, population
from evaluation.distribution.feature_extractors import MonaiVolumes, TorchvisionSlices


def features(seed: int, count: int, size: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    return mean + std * torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("counts", [(40, 30), (6, 9)])  # more and fewer cases than features
def test_frechet_agrees_with_the_matrix_root(counts):
    first, second = features(0, counts[0], 12), features(1, counts[1], 12, 0.5, 2.0)
    a, b = (np.cov(f.numpy(), rowvar=False) for f in (first, second))
    root = np.real(sqrtm(a @ b + 1e-12 * np.eye(12)))
    gap = (first.mean(0) - second.mean(0)).square().sum()
    expected = float(gap) + np.trace(a + b - 2.0 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=2e-3)


def test_frechet_closed_forms():
    one = features(2, 300, 8)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(one, one + 3.0) == pytest.approx(8 * 9.0, rel=1e-9)
    spread = float(torch.cov(one.T).trace())
    centred = one - one.mean(0)
    assert frechet_distance(centred, 2.0 * centred) == pytest.approx(spread, rel=1e-9)  # (2 - 1)² Tr Σ


def test_mmd_agrees_with_torchmetrics_and_is_zero_on_average():
    first, second = features(3, 25, 10), features(4, 25, 10, 0.3)
    expected = float(poly_mmd(first, second, degree=3, gamma=None, coef=1.0))
    assert mmd(first, second) == pytest.approx(expected, rel=1e-6)
    alike = [mmd(features(10 + i, 20, 10), features(60 + i, 20, 10)) for i in range(40)]
    assert abs(np.mean(alike)) < 3 * np.std(alike) / np.sqrt(len(alike))
    assert mmd(first + 1.0, second) > max(alike)


def test_features_with_nan_raise():
    with pytest.raises(ValueError, match="NaN"):
        mmd(features(0, 3, 4) * float("nan"), features(1, 3, 4))


def test_small_populations_warn_and_one_case_has_no_distance(caplog):
    real = {"axial": features(5, 40, 6).view(10, 4, 6)}
    result = compare_populations({"axial": real["axial"] + 2.0}, real)
    assert result["frechet"]["axial"] == pytest.approx(24.0, rel=1e-6)
    assert result["cases"] == 10 and "10 cases" in result["warning"] and "10 cases" in caplog.text
    assert 0.0 < result["reference"]["axial"] < result["frechet"]["axial"]
    single = compare_populations({"volume": features(6, 1, 6)[None]}, {"volume": features(7, 1, 6)[None]})
    assert single["frechet"]["volume"] is None and single["mmd"]["volume"] is None


class Means:
    """Mean HU of each half."""

    def features(self, volume, spacing):
        return {"volume": torch.stack([half.mean() for half in volume.chunk(2)])[None]}


def test_a_population_stacks_the_features_of_its_volumes():
    volumes = [(torch.full((4, 4, 4), float(i)), (1.0, 1.0, 1.0)) for i in range(5)]
    found = population(Means(), iter(volumes))
    assert found["volume"].shape == (5, 1, 2) and found["volume"][3, 0].tolist() == [3.0, 3.0]


def test_missing_or_other_weights_raise_user_error(tmp_path):
    with pytest.raises(UserError, match="weights=null: no such file"):
        TorchvisionSlices(None, "resnet18")
    with pytest.raises(UserError, match="no such file"):
        MonaiVolumes(str(tmp_path / "none.pth"))
    file = tmp_path / "weights.pth"
    torch.save(nn.Linear(2, 2).state_dict(), file)
    with pytest.raises(UserError, match="weights of another network than ResNet"):
        TorchvisionSlices(str(file), "resnet18")
    with pytest.raises(UserError, match="sha256 .* where abc was expected"):
        TorchvisionSlices(str(file), "resnet18", sha256="abc")
    with pytest.raises(UserError, match="extractor.network=resnet7: choose resnet10"):
        MonaiVolumes(str(file), "resnet7")
    torch.save(nn.Linear(2, 2), file)  # a whole object: loading it would run code
    with pytest.raises(UserError, match="not a file of weights alone"):
        MonaiVolumes(str(file), "resnet10")


def test_features_of_slices_have_their_shape_and_are_reproducible(tmp_path):
    file = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), file)
    extractor = TorchvisionSlices(str(file), "resnet18", slices=3, pixels=32)
    volume = 500.0 * torch.randn(10, 12, 14)
    found = extractor.features(volume, (3.0, 2.0, 1.0))
    assert {name: tuple(f.shape) for name, f in found.items()} == dict.fromkeys(found, (3, 512))
    assert list(found) == ["axial", "coronal", "sagittal"]
    again = extractor.features(volume, (3.0, 2.0, 1.0))
    assert all(torch.equal(found[plane], again[plane]) for plane in found)
    assert extractor.describe()["name"] == "torchvision resnet18" and len(extractor.describe()["sha256"]) == 64


def test_monai_features_of_a_volume(tmp_path):
    from monai.networks.nets import resnet10

    torch.manual_seed(0)
    network = resnet10(
        spatial_dims=3, n_input_channels=1, feed_forward=False, shortcut_type="B", bias_downsample=False
    )
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "w.pth")
    extractor = MonaiVolumes(str(tmp_path / "w.pth"), "resnet10", size=(32, 32, 32))
    assert extractor.features(torch.zeros(8, 9, 10), (1.0, 1.0, 1.0))["volume"].shape == (1, 512)
