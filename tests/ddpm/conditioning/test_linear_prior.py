"""The linear prior against ridge regression of another library, and leave-one-out against fits without the case."""

import pytest
import torch
from sklearn.linear_model import Ridge

from ddpm.conditioning.linear_prior import LinearPrior

SHAPE = (2, 4, 4, 4)


def cases(n: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    xrays = torch.rand(n, 1, 1, 16, 16, generator=generator)
    mixing = torch.randn(256, 128, generator=generator)
    latents = (xrays.flatten(1) - 0.5) @ mixing / 4 + 0.3 * torch.randn(n, 128, generator=generator) + 0.5
    return xrays, latents.view(n, *SHAPE)


def make(rank: int = 23, pixels: int = 8) -> LinearPrior:
    return LinearPrior(SHAPE, pixels=pixels, rank=rank)


def test_it_is_ridge_regression():
    xrays, latents = cases()
    prior = make().fit(xrays, latents)
    z = prior._features(xrays).double()
    alpha = float(prior.penalty) * torch.linalg.eigvalsh(z.T @ z).mean().item()
    ridge = Ridge(alpha=alpha).fit(z.numpy(), latents.flatten(1).double().numpy())
    new, _ = cases(5, seed=1)
    prior.radius.fill_(torch.inf)  # another test covers the limit
    expected = torch.from_numpy(ridge.predict(prior._features(new).double().numpy()))
    assert torch.allclose(prior(new).flatten(1).double(), expected, atol=1e-3)


def test_the_regression_without_a_training_case_predicts_it():
    xrays, latents = cases()
    prior = make().fit(xrays, latents)
    prior.radius.fill_(torch.inf)
    z = prior._features(xrays).double()
    alpha = float(prior.penalty) * torch.linalg.eigvalsh(z.T @ z).mean().item()
    for i in (0, 7):
        rest = [j for j in range(len(xrays)) if j != i]
        ridge = Ridge(alpha=alpha).fit(z[rest].numpy(), latents[rest].flatten(1).double().numpy())
        for image in (xrays[i : i + 1], 0.9 * xrays[i : i + 1] + 0.02):  # also where the X-ray was altered since
            query = prior._features(image).double()
            expected = torch.from_numpy(ridge.predict(query.numpy()))
            # the components were found with case i: only the part inside them can agree
            inside = (expected - prior.mean) @ prior.basis.T.double() @ prior.basis.double() + prior.mean
            found = prior(image, torch.tensor([i])).flatten(1).double()
            assert torch.allclose(found, inside, atol=2e-3)
    assert (prior(xrays) - latents).square().mean() < (
        prior(xrays, torch.arange(len(xrays))) - latents
    ).square().mean()


def test_the_regression_without_the_patient_predicts_a_case():
    """Three patients of several cases, in no order, the others of one."""
    xrays, latents = cases()
    patients = [f"p{i}" for i in range(len(xrays))]
    for i, name in ((3, "p0"), (9, "p0"), (4, "p2"), (23, "p8")):
        patients[i] = name
    prior = make().fit(xrays, latents, patients)
    prior.radius.fill_(torch.inf)
    z = prior._features(xrays).double()
    alpha = float(prior.penalty) * torch.linalg.eigvalsh(z.T @ z).mean().item()
    for i in (0, 3, 23, 5):
        rest = [j for j, patient in enumerate(patients) if patient != patients[i]]
        ridge = Ridge(alpha=alpha).fit(z[rest].numpy(), latents[rest].flatten(1).double().numpy())
        expected = torch.from_numpy(ridge.predict(z[i : i + 1].numpy()))
        inside = (expected - prior.mean) @ prior.basis.T.double() @ prior.basis.double() + prior.mean
        found = prior(xrays[i : i + 1], torch.tensor([i])).flatten(1).double()
        assert torch.allclose(found, inside, atol=2e-3)
    with pytest.raises(ValueError, match="24 training cases of 2 patients"):
        make().fit(xrays, latents, ["a"] * 12 + ["b"] * 12)


def test_cases_of_one_patient_do_not_improve_predictions_for_another():
    """Every case twice: if only the case is left out, its twin predicts it."""
    xrays, latents = cases()
    twice = xrays.repeat(2, 1, 1, 1, 1), latents.repeat(2, 1, 1, 1, 1)
    every = torch.arange(48)
    alone = make().fit(*twice)
    apart = make().fit(*twice, [i % 24 for i in range(48)])
    errors = [(prior(twice[0], every) - twice[1]).square().mean() for prior in (alone, apart)]
    assert errors[1] > 1.5 * errors[0]


@pytest.mark.parametrize("grid", [4, 2])
def test_repeated_volumes_add_no_components(grid):
    """Four X-rays of every CT: the targets span 23 dimensions, however many cases there are."""
    xrays, latents = cases()
    noise = 0.05 * torch.randn(4 * 24, *xrays.shape[1:], generator=torch.Generator().manual_seed(5))
    xrays, latents = xrays.repeat(4, 1, 1, 1, 1) + noise, latents.repeat(4, 1, 1, 1, 1)
    patients = [i % 24 for i in range(96)]
    made = [LinearPrior(SHAPE, pixels=8, rank=rank, max_side=grid, deviation=True) for rank in (23, 64)]
    few, many = (prior.fit(xrays, latents, patients) for prior in made)
    assert not many.basis[23:].any()
    torch.testing.assert_close(many(xrays), few(xrays))
    every = torch.arange(96)
    torch.testing.assert_close(many(xrays, every), few(xrays, every))
    torch.testing.assert_close(many.std, few.std)


@pytest.mark.parametrize("grid", [4, 2])
def test_deviation_is_that_of_left_out_cases(grid):
    xrays, latents = cases(200)
    prior = LinearPrior(SHAPE, pixels=8, rank=20, max_side=grid, deviation=True).fit(xrays, latents)
    prior.radius.fill_(torch.inf)
    missed = (latents - prior(xrays, torch.arange(200))).square().mean(dim=0).sqrt()
    deviation = prior.deviation(latents[:3])
    assert deviation.shape == latents[:3].shape and torch.equal(deviation[0], deviation[2])
    if grid == 4:
        assert torch.allclose(deviation[0], missed, rtol=1e-3)
    assert deviation.square().mean().sqrt().item() == pytest.approx(missed.square().mean().sqrt().item(), rel=0.03)
    assert make().deviation(latents) is None


def test_deviation_grows_with_augmented_xrays():
    xrays, latents = cases(200)
    prior = LinearPrior(SHAPE, pixels=8, rank=20, deviation=True).fit(xrays, latents)
    prior.radius.fill_(torch.inf)
    own = prior.std.clone()
    prior.measure_deviation(xrays, latents)
    assert torch.allclose(prior.std, own, rtol=1e-3)
    changed = xrays + 0.5 * torch.randn(xrays.shape, generator=torch.Generator().manual_seed(4))
    prior.measure_deviation(changed, latents)
    missed = (latents - prior(changed, torch.arange(200))).square().mean(dim=0).sqrt()
    assert torch.allclose(prior.std, missed, rtol=1e-3) and prior.std.mean() > 1.02 * own.mean()


def test_scores_are_shrunk_to_the_training_radius():
    xrays, latents = cases()
    prior = make(rank=8).fit(xrays, latents)
    farthest = (prior(xrays).flatten(1) - prior.mean).norm(dim=1).max()
    strange = torch.rand(50, 1, 1, 16, 16, generator=torch.Generator().manual_seed(3)).round()  # pure black and white
    wild = (prior._features(strange) @ prior.weight / prior.score_std).norm(dim=1)
    assert (wild > prior.radius).any()  # without the limit some would exceed it
    limited = (prior(strange).flatten(1) - prior.mean) @ prior.basis.T / prior.score_std
    assert limited.norm(dim=1).max() <= prior.radius * 1.001
    assert (prior(strange).flatten(1) - prior.mean).norm(dim=1).max() < 3 * farthest


def test_a_file_omits_the_training_cases(tmp_path):
    xrays, latents = cases()
    prior = make(rank=8).fit(xrays, latents)
    prior.save_pretrained(tmp_path)
    again = LinearPrior.from_pretrained(tmp_path)
    assert torch.equal(again(xrays), prior(xrays))
    assert again.leverage is None


def test_a_hidden_prior_is_zero_and_stays_hidden_in_a_file(tmp_path):
    xrays, latents = cases()
    prior = LinearPrior(SHAPE, pixels=8, rank=20, deviation=True).fit(xrays, latents)
    shown, off = prior(xrays), prior.deviation(latents)
    prior.hide(True)
    prior.save_pretrained(tmp_path)
    for hidden in (prior, LinearPrior.from_pretrained(tmp_path)):
        assert torch.equal(hidden(xrays), torch.zeros_like(latents))
        assert torch.equal(hidden.deviation(latents), torch.ones_like(latents))
    assert torch.equal(prior(xrays, torch.arange(len(xrays))), torch.zeros_like(latents))
    prior.hide(False)
    assert torch.equal(prior(xrays), shown) and torch.equal(prior.deviation(latents), off)


def test_large_latents_have_a_prior_on_a_coarse_grid():
    prior = LinearPrior((2, 24, 8, 8), pixels=8, rank=4)
    xrays, _ = cases(10)
    smooth = torch.linspace(-1, 1, 24).view(1, 1, -1, 1, 1) * xrays.mean(dim=(1, 2, 3, 4)).view(-1, 1, 1, 1, 1)
    latents = smooth.expand(-1, 2, -1, 8, 8)
    predicted = prior.fit(xrays, latents)(xrays)
    assert predicted.shape == latents.shape and prior.basis.shape[1] == 2 * 16 * 8 * 8
    assert (predicted - latents).square().mean() < 0.2 * latents.var()


def test_too_few_cases_and_other_views_are_refused():
    xrays, latents = cases()
    with pytest.raises(ValueError, match="2 training cases.*model.prior.rank=0"):
        make().fit(xrays[:2], latents[:2])
    with pytest.raises(ValueError, match="2 views"):
        make().fit(xrays.expand(-1, 2, -1, -1, -1), latents)


def test_the_distance_separates_training_xrays_from_others():
    """The largest distance of training X-rays is 1; three times the difference is three times the distance."""
    generator = torch.Generator().manual_seed(0)
    pattern, hidden = torch.rand(1, 1, 1, 32, 32, generator=generator), torch.randn(40, 3, generator=generator)
    basis = torch.randn(3, 1, 1, 32, 32, generator=generator)
    xrays = pattern + 0.02 * torch.einsum("nk,kvchw->nvchw", hidden, basis)
    latents = torch.einsum("nk,kl->nl", hidden, torch.randn(3, 4 * 64, generator=generator)).view(40, 4, 4, 4, 4)
    prior = LinearPrior((4, 4, 4, 4), rank=8).fit(xrays, latents)
    distance = prior.distance(xrays)
    assert distance.max() == pytest.approx(1.0, abs=1e-3) and distance.min() < 0.5
    farther = prior.distance(pattern + 3.0 * (xrays - pattern))  # three times as far from the middle of training
    torch.testing.assert_close(farther, 3.0 * distance, atol=0.5, rtol=0.1)


def test_latents_that_were_not_scanned_do_not_count():
    xrays, latents = cases()
    scanned = torch.ones(len(xrays), 1, *SHAPE[1:], dtype=torch.bool)
    fitted = [LinearPrior(SHAPE, pixels=8, rank=23, deviation=True) for _ in range(4)]
    fitted[0].fit(xrays, latents)
    fitted[1].fit(xrays, latents, scanned=scanned)
    for name, value in fitted[0].state_dict().items():
        assert torch.equal(value, fitted[1].state_dict()[name]), name
    scanned[:8, :, :2] = False
    scanned[3:5, :, :, :, 3] = False
    fitted[2].fit(xrays, latents, scanned=scanned)
    fitted[3].fit(xrays, torch.where(scanned, latents, 100.0), scanned=scanned)
    for name, value in fitted[2].state_dict().items():
        torch.testing.assert_close(value, fitted[3].state_dict()[name], rtol=1e-5, atol=1e-5)
    inside = torch.where(scanned, latents, torch.nan).nanmean(dim=0).flatten()
    torch.testing.assert_close(fitted[2].mean, inside)


def test_the_regression_without_a_case_survives_loading_another_basis():
    """A resumed run fits again; the signs of the components that it loads may be the opposite."""
    xrays, latents = cases()
    prior = make().fit(xrays, latents)
    expected, state = prior(xrays, torch.arange(len(xrays))), prior.state_dict()
    signs = torch.ones(len(prior.basis))
    signs[::2] = -1.0
    state = {**state, "basis": signs[:, None] * state["basis"], "weight": state["weight"] * signs}
    prior.load_state_dict(state)
    torch.testing.assert_close(prior(xrays, torch.arange(len(xrays))), expected, atol=1e-4, rtol=1e-4)
