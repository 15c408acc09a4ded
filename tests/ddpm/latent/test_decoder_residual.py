"""The decoder's residual: a drawn field has the measured deviation and autocorrelation, alone and in samples."""

from types import SimpleNamespace

import pytest
import torch
from ddpm_parts import latent_encoder

from common.errors import UserError
from dataset.imaging.hu_window import Window
from ddpm.latent import DecoderResidual
from ddpm.latent.decoder_residual import with_residual
from train.generator.measure_parts import measure_residual

SIZE = (24, 24, 24)
KERNEL = torch.tensor([0.25, 0.5, 0.25])  # along H of the noise: autocorrelation 2/3 at 1 voxel, 1/6 at 2
LOW, HIGH = 0.02, 0.1  # deviation where the decoded volume is dark and where it is bright


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(seed):
    """A field of unit variance that is white along D and W."""
    white = normal(SIZE[0], SIZE[1] + 2, SIZE[2], seed=seed)
    field = sum(k * white[:, i : i + SIZE[1]] for i, k in enumerate(KERNEL))
    return field / KERNEL.norm()


def decoded(seed=0):
    """Dark and bright halves, each flat."""
    half = torch.full(SIZE, -0.5)
    half[:, :, SIZE[2] // 2 :] = 0.5
    return half + 1e-4 * normal(*SIZE, seed=100 + seed)


def spread_of(volume):
    return torch.where(volume > 0, HIGH, LOW)


@pytest.fixture(scope="module")
def residual():
    pairs = []
    for seed in range(8):
        volume = decoded(seed)
        pairs.append((volume + spread_of(volume) * correlated(seed), volume, None))
    return DecoderResidual(lags=6).fit(pairs)


def inner(field):
    """Voxels away from the edge between the halves."""
    return field[:, :, : SIZE[2] // 2 - 2], field[:, :, SIZE[2] // 2 + 2 :]


def test_a_draw_has_the_measured_deviation(residual):
    drawn = torch.stack([residual.draw(decoded(), normal(*SIZE, seed=50 + i)) for i in range(8)])
    for part, wanted in zip(zip(*map(inner, drawn), strict=True), (LOW, HIGH), strict=True):
        values = torch.stack(part)
        assert values.square().mean().sqrt() == pytest.approx(wanted, rel=0.04)  # about 40,000 correlated voxels
        assert values.mean().abs() < 0.05 * wanted


def test_a_draw_has_the_measured_autocorrelation(residual):
    drawn = torch.stack([residual.draw(decoded(), normal(*SIZE, seed=80 + i)) for i in range(8)])
    field = drawn / residual.spread(decoded())
    for axis, lags in ((1, {1: 0.0, 2: 0.0}), (2, {1: 2 / 3, 2: 1 / 6, 3: 0.0}), (3, {1: 0.0})):
        for lag, wanted in lags.items():
            size = field.shape[axis] - lag
            product = field.narrow(axis, 0, size) * field.narrow(axis, lag, size)
            assert float(product.mean() / field.square().mean()) == pytest.approx(wanted, abs=0.03)


def test_a_draw_is_linear_in_its_noise_and_the_same_for_the_same_noise(residual):
    noise = normal(*SIZE, seed=3)
    torch.testing.assert_close(residual.draw(decoded(), -2.0 * noise), -2.0 * residual.draw(decoded(), noise))
    assert torch.equal(residual.draw(decoded(), noise), residual.draw(decoded(), noise))
    for size in ((5, 16, 9), (1, 24, 24)):  # smaller than twice the lags
        assert residual.draw(torch.zeros(size), normal(*size)).isfinite().all()


def test_voxels_that_were_not_scanned_have_no_part():
    volume, scanned = decoded(), torch.ones(SIZE, dtype=torch.bool)
    scanned[12:] = False
    truth = volume + 0.05 * correlated(1)
    truth[12:] += 1.0
    found = DecoderResidual(lags=4).fit([(truth, volume, scanned)])
    assert found.spread(volume).square().mean().sqrt() == pytest.approx(0.05, rel=0.1)
    with pytest.raises(ValueError, match="no scanned voxel"):
        DecoderResidual().fit([(truth, volume, torch.zeros_like(scanned))])


def test_the_file_of_a_part_is_small():
    assert sum(part.numel() * part.element_size() for part in DecoderResidual().buffers()) < 100_000


def pipeline(part, antithetic=True):
    return SimpleNamespace(residual=part, window=Window(-1000.0, 1000.0), antithetic=antithetic)


def hu(count, numbers):
    return torch.stack([400.0 * decoded(i) for i in range(count)])[:, None].repeat(1, numbers, 1, 1, 1)


def test_the_residual_of_a_sample_depends_on_seed_id_and_number_alone(residual):
    samples = hu(3, 3)
    together = with_residual(pipeline(residual), samples, ["a", "b", "c"], seed=1)
    assert torch.equal(with_residual(pipeline(residual), samples[1:2], ["b"], seed=1)[0], together[1])
    assert torch.equal(samples, hu(3, 3))  # not changed in place
    added = together - samples
    assert added[:, 0].std() == pytest.approx(1000.0 * ((LOW**2 + HIGH**2) / 2) ** 0.5, rel=0.1)
    torch.testing.assert_close(added[:, 1], -added[:, 0])  # pairs of opposite noise
    for other in (added[0, 2], (with_residual(pipeline(residual), samples[:1], ["a"], seed=2) - samples[:1])[0, 0]):
        assert torch.corrcoef(torch.stack([other.flatten(), added[0, 0].flatten()]))[0, 1].abs() < 0.05
    independent = with_residual(pipeline(residual, antithetic=False), samples, ["a", "b", "c"], seed=1) - samples
    assert (independent[:, 1] + independent[:, 0]).std() > 0.5 * independent[:, 0].std()


def test_samples_without_a_measured_residual_stay_as_they_are():
    samples = hu(1, 2)
    assert with_residual(pipeline(None), samples, ["a"], seed=0) is samples


class Cases(list):
    window = Window(-1000.0, 1000.0)


def test_the_residual_of_an_encoder_is_that_of_its_reconstructions(capsys):
    torch.manual_seed(0)
    encoder = latent_encoder()
    cases = Cases({"ct": torch.tanh(normal(1, 32, 32, 32, seed=i))} for i in range(3))
    found = measure_residual(encoder, cases, torch.device("cpu"))
    pairs = [(case["ct"], encoder.reconstruct(case["ct"][None])[1][0]) for case in cases]
    wanted = torch.stack([truth - volume for truth, volume in pairs]).square().mean().sqrt()
    measured = torch.stack([found.spread(volume[0]) for _, volume in pairs]).square().mean().sqrt()
    assert float(measured) == pytest.approx(float(wanted), rel=0.02)
    assert f"{1000 * float(wanted):.0f} HU root mean square in 3 training cases" in capsys.readouterr().out
    unscanned = [case | {"scanned": torch.zeros_like(case["ct"], dtype=torch.bool)} for case in cases]
    with pytest.raises(UserError, match="no scanned voxel"):
        measure_residual(encoder, Cases(unscanned), torch.device("cpu"))
