"""Outputs of other software: TotalSegmentator's folders and LPIPS weights, read if present, refused if wrong."""

import nibabel as nib
import numpy as np
import pytest
import torch
from evaluation_fakes import SPACING, FakeCases, FakeDataModule, FakePipeline, chest_world, evaluate, oracle
from torchvision.models import alexnet

from common.errors import UserError
from dataset.imaging.geometry import nifti_affine
from dataset.imaging.hu_window import Window
from evaluation.metrics import lpips as perceptual
from evaluation.metrics.organs.totalsegmentator import ORGANS, read_organs
from evaluation.scoring.score_cases import score_case

SIZE = (8, 10, 12)


def write(folder, name: str, mask: np.ndarray, affine: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8).transpose(2, 1, 0), affine), folder / f"{name}.nii.gz")


def heart(start: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[2:5, 3:7, start : start + 4] = True
    return mask


def test_masks_are_read_in_our_axes_from_any_orientation(tmp_path):
    affine = nifti_affine(SPACING, (5.0, -3.0, 9.0), SIZE)
    write(tmp_path / "a", "heart", heart(2), affine)
    image = nib.load(tmp_path / "a" / "heart.nii.gz")
    turned = image.as_reoriented([[0, -1], [1, -1], [2, 1]])  # RAS, as TotalSegmentator may leave it
    nib.save(turned, tmp_path / "a" / "heart.nii.gz")
    found = read_organs(tmp_path / "a", SIZE, SPACING, (5.0, -3.0, 9.0))
    assert set(found) == {"heart"} and np.array_equal(found["heart"].numpy(), heart(2))


def test_lungs_need_all_their_lobes(tmp_path):
    affine = nifti_affine(SPACING, size=SIZE)
    for i, lobe in enumerate(ORGANS["lungs"][:-1]):
        write(tmp_path, lobe, heart(i), affine)
    assert "lungs" not in read_organs(tmp_path, SIZE, SPACING)
    write(tmp_path, ORGANS["lungs"][-1], heart(8), affine)
    expected = np.any([heart(i) for i in (0, 1, 2, 3, 8)], axis=0)
    assert np.array_equal(read_organs(tmp_path, SIZE, SPACING)["lungs"].numpy(), expected)


def test_masks_of_another_grid_are_refused(tmp_path):
    write(tmp_path / "size", "heart", heart(2)[1:], nifti_affine(SPACING, size=SIZE))
    with pytest.raises(UserError, match=r"\(7, 10, 12\) voxels, the volume has \(8, 10, 12\)"):
        read_organs(tmp_path / "size", SIZE, SPACING)
    write(tmp_path / "place", "heart", heart(2), nifti_affine(SPACING, (0.0, 0.0, 50.0), SIZE))
    with pytest.raises(UserError, match="its affine .* is not the volume's"):
        read_organs(tmp_path / "place", SIZE, SPACING)
    (tmp_path / "place" / "heart.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match="damaged or not NIfTI"):
        read_organs(tmp_path / "place", SIZE, SPACING)


def test_organ_dice_of_the_methods_that_have_masks():
    case = chest_world(1, 3).case(0)
    size = tuple(case["ct"].shape)
    masks = [torch.zeros(size, dtype=torch.bool) for _ in range(2)]
    masks[0][5:9], masks[1][7:11] = True, True
    case |= {"organs": {"truth": {"heart": masks[0]}, "model": {"heart": masks[1]}}}
    volumes = dict.fromkeys(("model", "ridge"), case["ct"].float())
    rows = score_case(case, volumes, Window(-1000.0, 1000.0), metrics=["totalsegmentator_heart"])
    assert rows[0]["totalsegmentator_heart"] == 0.5 and np.isnan(rows[1]["totalsegmentator_heart"])


def test_an_evaluation_finds_the_folders_by_the_names_of_its_nifti_files(tmp_path):
    test = chest_world(2, 3)
    data = FakeDataModule(chest_world(3, 1), chest_world(2, 2), test)
    pipeline = FakePipeline(oracle(FakeCases([test.case(i) for i in range(2)])), data.protocol())
    for name, start in (("true", 2), ("generated", 4)):
        mask = np.zeros((24, 24, 24), dtype=bool)
        mask[start : start + 4] = True
        affine = nifti_affine(test.case(0)["spacing"].tolist(), size=mask.shape)
        write(tmp_path / "masks" / f"case_1_{name}", "heart", mask, affine)
    settings = {"samples": 1, "nifti": 0, "methods": ("model",), "metrics": ["totalsegmentator_heart"]}
    result = evaluate(data, pipeline, tmp_path / "out", totalsegmentator=str(tmp_path / "masks"), **settings)
    assert result["methods"]["model"]["totalsegmentator_heart"]["mean"] == 0.5
    with pytest.raises(UserError, match="totalsegmentator=.*no such folder"):
        evaluate(data, pipeline, tmp_path / "out", totalsegmentator=str(tmp_path / "none"), **settings)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    torch.save(alexnet(weights=None).state_dict(), file)
    return file


def test_lpips_is_zero_at_identity_and_torchmetrics_own_on_slices(weights):
    network = perceptual.load_lpips(weights)
    truth = 2.0 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) - 1.0
    other = (truth + 0.3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    assert perceptual.lpips_slices(truth, truth, network) == 0.0
    found = perceptual.lpips_slices(other, truth, network)
    images = [v[:, None].expand(-1, 3, -1, -1) for v in (other, truth)]
    assert found > 0 and torch.allclose(found, network(*images).mean(), atol=1e-6)
    features = alexnet(weights=None).features
    features.load_state_dict(
        {k.removeprefix("features."): v for k, v in torch.load(weights, weights_only=True).items() if "features" in k}
    )
    assert torch.equal(network.net.slice1[0].weight, features[0].weight)


def test_lpips_needs_alexnet_weights(weights, tmp_path):
    case = chest_world(1, 3).case(0)
    rows = score_case(case, {"model": case["ct"].float()}, Window(-1000.0, 1000.0), metrics=["lpips"])
    assert np.isnan(rows[0]["lpips"])
    with pytest.raises(UserError, match="lpips=.*no such file"):
        perceptual.load_lpips(tmp_path / "none.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not the AlexNet of torchvision"):
        perceptual.load_lpips(tmp_path / "other.pth")
    tools = {"lpips": perceptual.load_lpips(weights)}
    rows = score_case(case, {"model": case["ct"].float()}, Window(-1000.0, 1000.0), metrics=["lpips"], tools=tools)
    assert rows[0]["lpips"] == 0.0


class HalfMeans:
    """An extractor without weights: mean and deviation of a volume."""

    def describe(self) -> dict:
        return {"name": "half means"}

    def features(self, volume, spacing):
        return {"volume": torch.stack([volume.mean(), volume.std()])[None]}


def test_the_result_holds_distances_of_populations_and_their_cases(tmp_path):
    data = FakeDataModule(chest_world(3, 1), chest_world(2, 2), chest_world(5, 3))
    pipeline = FakePipeline(oracle(data.test), data.protocol())
    settings = {"samples": 2, "nifti": 0, "methods": ("model", "model_sample"), "metrics": ["psnr"]}
    result = evaluate(data, pipeline, tmp_path, extractor=HalfMeans(), report=True, **settings)
    assert result["protocol"]["extractor"] == {"name": "half means"}
    found = result["distribution"]["model_sample"]
    assert found["cases"] == 5 and "5 cases" in found["warning"] and found["frechet"]["volume"] >= 0.0
    assert "5 cases" in (tmp_path / "report.html").read_text()
    blank = evaluate(data, pipeline, tmp_path, **settings)
    assert blank["distribution"] is None and blank["protocol"]["extractor"] is None
