"""Updates towards an X-ray on a small linear world: planted decoder, true line integrals, known errors of latents."""

import pytest
import torch
from projection_world import EXTENT, SHAPE, fitted, measure, of_patients, world

from common.errors import UserError
from dataset.imaging.geometry import unknown_pose
from ddpm.consistency.projection_consistency import ProjectionConsistency, light_factors
from ddpm.consistency.xray_correction import XrayCorrection, consistency_mode


@pytest.fixture(scope="module")
def model() -> ProjectionConsistency:
    return fitted()


@pytest.mark.parametrize("views", [1, 2])
def test_the_update_lowers_the_error_of_new_cases_and_brings_chi2_to_that_of_the_truth(views, model):
    model, errors = model if views == 1 else fitted(views), []
    for case in world(12, views, seed=1):
        measurement, clean = measure(model, case), case.predicted[None]
        found = measurement.update(clean, signal=0.0, noise=1.0)
        after = measurement.chi2(clean + found.change)
        assert measurement.chi2(clean) > 3.0 * model.level
        torch.testing.assert_close(after, found.after, rtol=0.05, atol=0.05)
        assert 0.95 * float(model.level) < float(after) < 0.5 * float(measurement.chi2(clean))
        errors.append([(case.latents - z).square().mean() for z in (clean[0], clean[0] + found.change[0])])
    before, after = torch.tensor(errors).unbind(1)
    assert (after < before).all() and after.mean() < 0.8 * before.mean()


def test_true_latents_as_a_start_stay(model):
    moved = [
        (measure(model, case).update(case.latents[None], 0.0, 1.0).change.square().mean(),
         measure(model, case).update(case.predicted[None], 0.0, 1.0).change.square().mean())
        for case in world(12, seed=1)
    ]  # fmt: skip
    of_truth, of_prediction = torch.tensor(moved).unbind(1)
    assert of_truth.mean() < 0.03 * of_prediction.mean()


def test_the_level_is_that_of_true_latents_of_new_patients():
    """Also where the cases of a patient share what separates projection and X-ray, as morphs do."""
    model = fitted(cases=of_patients(world(96), each=12))
    new = of_patients(world(48, seed=1), each=1, seed=1)
    chi2 = torch.cat([measure(model, case).chi2(case.latents[None]) for case in new]).mean()
    assert 0.8 < float(chi2) / float(model.level) < 1.25
    apart = [case._replace(patient=str(i)) for i, case in enumerate(of_patients(world(96), each=12))]
    assert float(fitted(cases=apart).level) < 0.7 * float(chi2)


def test_the_xray_of_another_patient_is_beyond_the_limit(model):
    cases = world(12, seed=1)
    own = torch.cat([measure(model, case).chi2(case.predicted[None]) for case in cases])
    others = zip(cases, cases[1:] + cases[:1], strict=True)
    other = torch.cat([measure(model, case).chi2(wrong.predicted[None]) for case, wrong in others])
    assert (own <= 1.5 * model.limit).all() and (other > model.limit).float().mean() >= 0.9


def test_the_change_shrinks_with_the_uncertainty_of_the_prediction(model):
    case = world(1, seed=1)[0]
    sizes = []
    for noise in (1.0, 0.3, 0.03):
        signal = (1.0 - noise**2) ** 0.5
        sizes.append(float(model.uncertainty(signal, noise)(torch.ones(1, *SHAPE)).abs().mean()))
    assert sizes[0] > sizes[1] > 10.0 * sizes[2]
    assert measure(model, case).update(case.predicted[None], 1.0, 1e-3).change.abs().max() < 1e-2


def test_the_correlation_of_the_channels_is_that_of_the_errors(model):
    torch.testing.assert_close(model.correlation, torch.ones(2, 2), atol=1e-3, rtol=0.0)


def test_a_stored_model_gives_the_same_update(model, tmp_path):
    model.save_pretrained(tmp_path)
    again, case = ProjectionConsistency.from_pretrained(tmp_path), world(1, seed=1)[0]
    updates = [measure(m, case).update(case.predicted[None], 0.5, 0.8).change for m in (model, again)]
    torch.testing.assert_close(*updates)


def test_a_batch_of_several_xrays_gives_the_updates_of_each(model):
    a, b = world(2, seed=1)
    xrays, poses, extents = torch.stack([a.xray, b.xray]), torch.stack([a.pose, b.pose]), EXTENT.expand(2, 3)
    correction = XrayCorrection(model, None, xrays, poses, extents, ["a", "b"])
    clean = torch.stack([b.predicted, a.predicted, b.predicted + 0.1])
    together = correction.update([1, 0, 1], clean, 0.5, 0.8)
    for row, case in enumerate((b, a, b)):
        alone = clean[row : row + 1] + measure(model, case).update(clean[row : row + 1], 0.5, 0.8).change
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(correction.chi2(clean, [1, 0, 1])[1], measure(model, a).chi2(a.predicted[None])[0])


def test_xrays_of_unknown_pose_are_left_to_the_network_unless_it_is_on(model):
    case = world(1, seed=1)[0]
    place = case.xray[None], unknown_pose(1, ("PA",))[None], EXTENT[None]
    assert not XrayCorrection(model, None, *place, ["film"])
    assert not XrayCorrection(model, False, case.xray[None], case.pose[None], EXTENT[None], ["drr"])
    assert not XrayCorrection(None, None, case.xray[None], case.pose[None], EXTENT[None], ["drr"])
    film = XrayCorrection(model, True, *place, ["film"])
    clean = case.predicted[None]
    after = clean + film.measurements[0].update(clean, 0.0, 1.0).change
    assert film and film.chi2(after, [0]) < film.chi2(clean, [0])
    film.measure([0], clean)
    assert film.first_chi2() is None  # that of a fitted pose is not comparable with a calibration
    both = place[0].expand(-1, 2, -1, -1, -1), place[1].expand(-1, 2, -1), place[2]
    with pytest.raises(UserError, match="sampler.consistency=on: X-ray film: it has 2 views"):
        XrayCorrection(model, True, *both, ["film"])


def test_a_missing_view_takes_no_part():
    model, case = fitted(views=2), world(1, views=2, seed=1)[0]
    xray, pose = case.xray.clone(), case.pose.clone()
    xray[1], pose[1] = float("nan"), float("nan")
    correction = XrayCorrection(model, True, xray[None], pose[None], EXTENT[None], ["one view"])
    found = correction.chi2(case.predicted[None], [0])
    expected = model.measurement(xray, case.pose, EXTENT).chi2(case.predicted[None])
    torch.testing.assert_close(found, expected)


def test_the_mode_is_on_off_or_null(model):
    assert [consistency_mode(word, model) for word in ("on", "off", True, None)] == [True, False, True, None]
    with pytest.raises(UserError, match=r"sampler.consistency=on: .*fit_parts.py"):
        consistency_mode("on", None)
    with pytest.raises(UserError, match="sampler.consistency=maybe: choose on, off or null"):
        consistency_mode("maybe", model)


def test_a_fit_needs_cases():
    with pytest.raises(ValueError, match="7 training cases"):
        ProjectionConsistency(SHAPE).fit(world(7), [])


def test_the_light_grid_divides_the_volume_and_is_at_most_as_fine_as_the_xray():
    assert light_factors((8, 32, 32, 32), (128, 128, 128), 64) == (2, 2, 2)
    assert light_factors((4, 128, 16, 16), (128, 128, 128), 64) == (1, 4, 4)
    assert light_factors((16, 16, 16, 16), (128, 128, 128), 64) == (4, 4, 4)


def test_the_matrix_of_a_pose_follows_the_model_to_its_device():
    model, (case,) = fitted(), world(1, seed=2)
    assert model._rays(case.pose, case.extent).forward.device.type == "cpu"
    moved = model.to("meta")
    assert moved._rays(case.pose, case.extent).forward.device.type == "meta"
