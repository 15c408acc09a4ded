"""The evidence map in worlds with a closed form: the X-ray determines nothing, all, or a part of the variance."""

import pytest
import torch
from ddpm_parts import module

from dataset.imaging.hu_window import Window
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import export_pipeline
from ddpm.diffusion.training_spread import TrainingSpread
from ddpm.pipeline import XrayToCTPipeline

SHAPE, SD = (32, 8, 8), 200.0
WINDOW = Window(-1000.0, 1000.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def patients(count):
    """Volumes of independent voxels N(0, SD²), beside a slab of air."""
    volumes = SD * normal(count, *SHAPE, seed=1)
    volumes[:, :, :, 4:] = -1000.0
    return volumes


def whole(size, sd=SD):
    return TrainingSpread.from_numbers(size, [sd] * (size[0] * size[1] * size[2]), 150)


@pytest.fixture(scope="module")
def spread():
    return TrainingSpread.fit(((volume, None) for volume in patients(150)), WINDOW, {"patients": 150})


def posterior(share, samples=8, pairs=False):
    """Truth, samples and the posterior mean, where the X-ray determines a `share` (d,) of the variance of each slice.

    Of `x ~ N(0, SD²)` the X-ray shows x + e; the posterior is N(share (x + e), (1 - share) SD²).
    """
    share = share.view(-1, 1, 1)
    truth = SD * normal(*SHAPE, seed=2)
    mean = share * truth + SD * (share * (1.0 - share)).sqrt() * normal(*SHAPE, seed=3)
    noise = normal(samples, *SHAPE, seed=4)
    if pairs:
        noise[1::2] = -noise[::2]
    return truth, mean + SD * (1.0 - share).sqrt() * noise, mean


def test_the_spread_of_training_volumes_is_measured_by_cell(spread):
    assert tuple(spread.sd.shape) == (16, 8, 8) and spread.cases == {"patients": 150}
    assert (
        spread.sd[:, :, :4].square().mean().sqrt() == pytest.approx(SD, rel=0.01) and (spread.sd[:, :, 4:] == 0).all()
    )
    assert sum(tensor.numel() * tensor.element_size() for tensor in spread.state_dict().values()) <= 8192
    with pytest.raises(ValueError, match="at least 2"):
        TrainingSpread.fit([(torch.zeros(SHAPE), None)], WINDOW, {})
    with pytest.raises(ValueError, match="damaged"):
        TrainingSpread.from_numbers([2, 2, 2], [1.0], 40)


def test_voxels_that_were_not_scanned_do_not_count():
    """The other half of the volumes, which is 500 HU away, is marked as not scanned in every second one."""
    volumes, scanned = patients(40), torch.ones(SHAPE, dtype=torch.bool)
    scanned[:16] = False
    pairs = [(torch.where(scanned, v, v + 500.0), scanned) if i % 2 else (v, None) for i, v in enumerate(volumes)]
    found = TrainingSpread.fit(pairs, WINDOW, {"patients": 40})
    assert found.sd[:8, :, :4].square().mean().sqrt() == pytest.approx(SD, rel=0.05)
    never = TrainingSpread.fit([(v, scanned) for v in volumes], WINDOW, {"patients": 40})
    assert (never.sd[:8] == 0).all() and never.variance(SHAPE)[:14].isnan().all()


def test_the_part_survives_export_and_a_folder_in_eight_kilobytes(spread, tmp_path):
    made = module()
    made.keep_measured(None, spread)
    path = export_pipeline(made.pipeline(), tmp_path / "model.safetensors", torch.bfloat16)
    found = load_pipeline(path)
    found.save_pretrained(tmp_path / "folder")
    for one in (found, XrayToCTPipeline.from_pretrained(tmp_path / "folder").to(torch.bfloat16)):
        assert torch.equal(one.training_spread.sd, spread.sd) and one.training_spread.cases == spread.cases
    checkpoint = {"state_dict": {}}
    made.on_save_checkpoint(checkpoint)
    assert checkpoint["header"]["components"]["training_spread"]["config"]["cases"] == {"patients": 150}
    assert torch.equal(checkpoint["latent_encoder"]["training_spread.deviation"], spread.deviation)
    without = export_pipeline(module().pipeline(), tmp_path / "old.safetensors", torch.bfloat16)
    assert load_pipeline(without).training_spread is None
    assert path.stat().st_size - without.stat().st_size < 10_000


@pytest.mark.parametrize("pairs", [False, True])
def test_an_xray_that_shows_nothing_determines_nothing_and_one_that_shows_all_determines_all(pairs):
    _, samples, _ = posterior(torch.zeros(32), pairs=pairs)
    assert whole([1, 1, 1]).evidence(samples, pairs).max() < 0.05
    _, samples, _ = posterior(torch.ones(32), pairs=pairs)
    assert whole([1, 1, 1]).evidence(samples, pairs).min() > 0.999


@pytest.mark.parametrize(("samples", "mean", "high"), [(4, 0.2, 0.15), (8, 0.1, 0.01), (20, 0.05, 0.0)])
@pytest.mark.parametrize("pairs", [False, True])
def test_samples_of_the_population_itself_show_no_evidence(samples, mean, high, pairs):
    """Patients whose neighbouring cells vary together, so that a cell holds few independent values."""
    weights = torch.exp(-torch.arange(-6.0, 7.0).square() / 4.0)
    kernel = torch.einsum("i,j,k->ijk", weights, weights, weights)[None, None]
    kernel = kernel / kernel.square().sum().sqrt()  # unit variance
    noise = normal(40, 1, 36, 36, 36, seed=7)
    if pairs:
        noise[1::2] = -noise[::2]
    volumes = SD * torch.nn.functional.conv3d(noise, kernel)[:, 0]
    spread = TrainingSpread.from_numbers([12, 12, 12], [SD] * 12**3, 150)
    found = torch.stack(
        [spread.evidence(volumes[k : k + samples], pairs) for k in range(0, 40 - samples + 1, samples)]
    )
    assert found.mean() < mean and (found > 0.5).float().mean() <= high


def test_air_beside_the_body_is_no_evidence():
    """Samples of the population, whose air is constant: voxels between its cells and others show nothing either."""
    spread = TrainingSpread.from_numbers([4, 1, 1], [SD, SD, 0.0, 0.0], 150)
    samples = SD * normal(8, *SHAPE, seed=9)
    samples[:, 16:] = -1000.0
    found = spread.evidence(samples, False)
    assert found[:16].max() < 0.1 and found[20:].isnan().all()


def test_noise_does_not_hide_where_the_xray_determines_a_volume():
    """Half of the volume is determined to 95 %, the other to 0; 8 samples of cells of one value tell them apart."""
    share = torch.tensor([0.95, 0.0]).repeat_interleave(16)
    noise = torch.nn.functional.interpolate(normal(8, 1, 16, 4, 4, seed=8), SHAPE)[:, 0]
    found = whole([16, 4, 4]).evidence(SD * (1.0 - share).sqrt().view(-1, 1, 1) * noise, False)
    assert found[:14].mean() > 0.7 and found[18:].mean() < 0.3


def test_the_error_is_the_share_that_is_not_determined():
    """The reliability law: squared error of the posterior mean = (1 - evidence) SD², within 5 points."""
    share = torch.tensor([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9, 0.98]).repeat_interleave(4)
    truth, samples, mean = posterior(share, samples=16)
    found = whole([8, 1, 1]).evidence(samples, False)
    inside = found.reshape(8, 4, 8, 8)[:, 1:3].mean(dim=(1, 2, 3))  # between the centres of cells it is interpolated
    errors = (truth - mean).square().reshape(8, -1).mean(dim=1) / SD**2
    assert (inside - share[::4]).abs().max() < 0.1
    many = whole([1, 1, 1])
    for value in (0.2, 0.5, 0.8):
        truth, samples, mean = posterior(torch.full((32,), value), samples=16)
        determined, error = float(many.evidence(samples, False).mean()), float((truth - mean).square().mean()) / SD**2
        assert determined == pytest.approx(value, abs=0.03) and error == pytest.approx(1.0 - determined, abs=0.05)
    assert torch.corrcoef(torch.stack([inside, 1.0 - errors]))[0, 1] > 0.98


def test_air_is_not_called_determined_and_three_samples_give_no_map(spread):
    _, samples, _ = posterior(torch.ones(32))
    found = spread.evidence(samples, False)
    assert found[:, :, 4:].isnan().all() and found[:, :, :4].min() > 0.99
    with pytest.raises(ValueError, match="at least 4"):
        spread.evidence(samples[:3], False)


def test_only_the_voxel_on_the_ray_that_is_one_voxel_long_is_determined():
    """An X-ray of one number, the sum of `ray` voxels: a Gaussian posterior, whose evidence is 1 / len(ray) on it."""
    population, samples = normal(4000, 8, seed=5), 256
    for ray in (slice(3, 4), slice(0, 4)):
        length = ray.stop - ray.start
        truth, drawn = population[0], normal(samples, 8, seed=6)
        on_ray = drawn[:, ray] + (truth[ray].sum() - drawn[:, ray].sum(dim=1, keepdim=True)) / length
        drawn[:, ray] = on_ray  # samples of N(0, 1) given their sum
        volumes = SD * drawn.view(samples, 8, 1, 1)
        spread = TrainingSpread.fit(((SD * v.view(8, 1, 1), None) for v in population), Window(-2000, 2000), {})
        found = spread.evidence(volumes, False).flatten()
        outside = torch.ones(8, dtype=torch.bool)
        outside[ray] = False
        assert found[outside].max() < 0.25 and found[ray].mean() == pytest.approx(1.0 / length, abs=0.06)
