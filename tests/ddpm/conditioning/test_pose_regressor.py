"""The pose regressor: alignment undoes displacements in the detector plane; regressions leave the patient out."""

import pytest
import torch

from dataset.imaging.drr import line_integrals
from dataset.imaging.geometry import make_pose, project, view_pose
from dataset.xray.pose_perturbation import perturbed_poses
from ddpm.conditioning.pose_regressor import FIELDS, PoseRegressor, _applied, _offsets, align

EXTENT = (320.0, 256.0, 352.0)
NOMINAL = make_pose(EXTENT)[None]
LIMITS = torch.tensor(PoseRegressor().config.limits)


def drawn(n: int, nominal: torch.Tensor = NOMINAL, seed: int = 0) -> torch.Tensor:
    return torch.stack([perturbed_poses(nominal, (seed, i)) for i in range(n)])


def pictures(poses: torch.Tensor, seed: int = 0, size: int = 32) -> torch.Tensor:
    """Images of 12 points, displaced in each patient, as Gaussians at their projections."""
    generator = torch.Generator().manual_seed(1)
    marks = (torch.rand(12, 3, generator=generator) - 0.5) * torch.tensor(EXTENT) * 0.7
    own = torch.randn(len(poses), 12, 3, generator=torch.Generator().manual_seed(seed)) * 4.0
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    found = []
    for shift, views in zip(own, poses, strict=True):
        for pose in views:
            at = project(marks + shift, pose)
            away = (axis[None, None, :] - at[:, None, None, 0]) ** 2 + (
                axis[None, :, None] - at[:, None, None, 1]
            ) ** 2
            found.append(torch.exp(-away / 0.02).sum(dim=0))
    return torch.stack(found).reshape(len(poses), poses.shape[1], 1, size, size) / 3.0


def fitted(
    n: int = 200, nominal: torch.Tensor = NOMINAL, rounds: int = 2
) -> tuple[PoseRegressor, torch.Tensor, torch.Tensor]:
    poses, names = drawn(n, nominal), [f"p{i}" for i in range(n)]
    regressor, seen = PoseRegressor(tuple(nominal[:, 2].tolist()), 16, rounds=rounds), pictures(poses)
    regressor.fit(seen, nominal.expand_as(poses), poses, names, names)
    return regressor, seen, poses


def read(regressor: PoseRegressor, nominal: torch.Tensor = NOMINAL) -> dict[str, torch.Tensor]:
    """R² of each field and view for patients that it was not fitted on."""
    poses = drawn(60, nominal, seed=9)
    truth = _offsets(nominal.expand_as(poses), poses)
    missed = (regressor.offsets(pictures(poses, seed=9), nominal.expand_as(poses)) - truth).square().mean(dim=0)
    return dict(zip(FIELDS, (1 - missed / truth.var(dim=0)).T, strict=True))


def test_offsets_recover_the_drawn_poses():
    poses = drawn(20)
    nominal = NOMINAL.expand_as(poses)
    offsets = _offsets(nominal, poses)
    torch.testing.assert_close(_applied(nominal, offsets), poses, rtol=1e-5, atol=1e-3)
    assert (offsets.abs() <= LIMITS * 1.001).all()


def test_zero_offsets_leave_the_xray_unchanged():
    xray = torch.rand(2, 1, 1, 24, 32)
    same = align(xray, NOMINAL.expand(2, 1, 9), torch.zeros(2, 1, 6))
    torch.testing.assert_close(same, xray, atol=1e-3, rtol=0)


@pytest.mark.parametrize("view", ["PA", "AP", "lateral"])
def test_alignment_restores_the_isocentre_plane(view):
    nominal = view_pose(EXTENT, view)
    hu = torch.full((32, 32, 32), -1000.0)
    slab = hu[:, 15:17] if view != "lateral" else hu[:, :, 15:17].transpose(1, 2)
    slab += 1000.0 * torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(
        4, 0
    ).repeat_interleave(4, 1).unsqueeze(1)
    moved = perturbed_poses(nominal[None], (0, 1))[0]
    moved[2:4] = nominal[2:4]  # alignment does not remove angles
    spacing = tuple(e / 32 for e in EXTENT)
    own, other = (line_integrals(hu, spacing, pose, (64, 64)) for pose in (nominal, moved))
    offsets = _offsets(nominal[None, None], moved[None, None])
    aligned = align(other[None, None, None], nominal[None, None], offsets)[0, 0, 0]
    inside = (slice(8, 56), slice(8, 56))
    before, after = ((image - own)[inside].square().mean().sqrt() for image in (other, aligned))
    assert after < 0.25 * before


def test_it_estimates_the_pose_of_new_patients():
    found = read(fitted()[0])
    assert found["centre_d"] > 0.95 and found["centre_w"] > 0.95 and found["elevation"] > 0.5


def test_each_view_has_its_own_regression():
    nominal = torch.stack([view_pose(EXTENT, "PA"), view_pose(EXTENT, "lateral")])
    found = read(fitted(nominal=nominal)[0], nominal)
    assert (found["centre_d"] > 0.95).all()
    assert found["centre_w"][0] > 0.9 and found["centre_h"][1] > 0.9  # across each of them
    assert found["centre_h"][0] < 0.8 and found["centre_w"][1] < 0.8  # along the beam


def test_a_view_that_was_not_fitted_stays_unchanged():
    bedside = view_pose(EXTENT, "AP")[None]
    nominal = torch.cat([NOMINAL.expand(150, 1, 9), bedside.expand(50, 1, 9)])
    poses = torch.stack([perturbed_poses(pose, (0, i)) for i, pose in enumerate(nominal)])
    names, seen, alone = [f"p{i}" for i in range(200)], pictures(poses), PoseRegressor((0.0,), 16)
    alone.fit(seen, nominal, poses, names, names)
    aligned, turned = alone(seen[-5:], nominal[-5:], torch.ones(5, 1, dtype=torch.bool))
    assert torch.equal(aligned, seen[-5:]) and torch.equal(turned, nominal[-5:])
    among = PoseRegressor((0.0,), 16)
    among.fit(seen[:150], nominal[:150], poses[:150], names[:150], names)
    assert torch.equal(among.weight, alone.weight)  # other views do not change the fit


def test_another_number_of_views_is_refused():
    with pytest.raises(ValueError, match="X-rays of 2 views.*made for 1"):
        PoseRegressor()(torch.rand(1, 2, 1, 32, 32), NOMINAL.expand(1, 2, 9), torch.ones(1, 2, dtype=torch.bool))


def test_the_regression_of_a_fold_excludes_its_patients(monkeypatch):
    monkeypatch.setattr("ddpm.conditioning.ridge.PENALTIES", (0.1,))  # which all patients choose together
    regressor, seen, poses = fitted(rounds=1)
    wrong = poses.clone()
    wrong[7, 0, 4] += 100.0
    names = [f"p{i}" for i in range(len(poses))]
    other = PoseRegressor((0.0,), 16, rounds=1)
    other.fit(seen, NOMINAL.expand_as(poses), wrong, names, names)
    asked = (seen[7:8], NOMINAL[None])
    without_patient, with_patient = (
        abs((other.offsets(*asked, index) - regressor.offsets(*asked, index))[0, 0, 3])
        for index in (torch.tensor([7]), None)
    )
    assert with_patient > 1.0 and without_patient < 1e-3 * with_patient
    assert not torch.equal(regressor.offsets(*asked, torch.tensor([7])), regressor.offsets(*asked))


def test_folds_are_by_patient():
    regressor, seen, poses = fitted()
    names = [f"p{i // 2}" for i in range(len(poses))]
    paired = PoseRegressor((0.0,), 16)
    paired.fit(seen, NOMINAL.expand_as(poses), poses, names, [*names, "somebody else"])
    assert torch.equal(paired.fold[0:200:2], paired.fold[1:200:2])
    stranger = torch.tensor([len(names)])  # in no fold
    asked = (seen[:1], NOMINAL[None])
    assert torch.equal(paired.offsets(*asked, stranger), paired.offsets(*asked))


def test_known_poses_stay_and_angles_go_into_the_pose():
    regressor, seen, _ = fitted()
    pose, unknown = NOMINAL.expand(3, 1, 9), torch.tensor([[True], [False], [True]])
    aligned, turned = regressor(seen[:3], pose, unknown)
    assert torch.equal(aligned[1], seen[1]) and torch.equal(turned[1], pose[1])
    offsets = regressor.offsets(seen[:3], pose)
    torch.testing.assert_close(turned[0] - pose[0], torch.nn.functional.pad(offsets[0, :, 1:3], (2, 5)))
    assert (aligned[0] - seen[0]).abs().max() > 0.05


def test_aligned_xrays_are_nearer_to_those_at_the_nominal_pose():
    regressor, seen, poses = fitted()
    nominal = NOMINAL.expand_as(poses)
    own = pictures(nominal)
    aligned, _ = regressor(seen, nominal, torch.ones(len(seen), 1, dtype=torch.bool))
    assert (aligned - own).square().mean() < 0.25 * (seen - own).square().mean()


def test_estimates_stay_within_the_limits():
    regressor, seen, _ = fitted()
    wild = 50.0 * torch.randn(4, 1, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    assert (regressor.offsets(wild, NOMINAL.expand(4, 1, 9)).abs() <= LIMITS).all()


def test_a_file_omits_the_training_cases(tmp_path):
    regressor, seen, _ = fitted()
    regressor.save_pretrained(tmp_path)
    again = PoseRegressor.from_pretrained(tmp_path)
    asked = (seen[:2], NOMINAL.expand(2, 1, 9))
    assert torch.equal(again.offsets(*asked), regressor.offsets(*asked))
    with pytest.raises(RuntimeError, match="call fit first"):
        again.offsets(*asked, torch.tensor([0, 1]))


def test_too_few_patients_are_refused():
    poses = drawn(9)
    with pytest.raises(ValueError, match="9 training patients.*needs 10.*model.pose_regressor=false"):
        PoseRegressor((0.0,), 16).fit(
            pictures(poses), NOMINAL.expand_as(poses), poses, list("abcdefghi"), list("abcdefghi")
        )
