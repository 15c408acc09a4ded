"""Gaussian preconditioning: exact for Gaussian latents and without noise, refused without a residual prior."""

import pytest
import torch
from ddpm_parts import item, module

from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import export_pipeline
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.denoiser.preconditioning import GaussianPreconditioning
from ddpm.denoiser.unet import UNet3D
from ddpm.diffusion.noise_schedule import NoiseSchedule
from ddpm.diffusion.objective import NoiseObjective
from ddpm.diffusion.samplers import make_sampler, network_timestep
from ddpm.diffusion.sampling_loop import sample_latents, set_steps

SETTINGS = {"timesteps": 1000, "schedule": "squaredcos_cap_v2", "zero_terminal_snr": True}


def network(**options) -> UNet3D:
    torch.manual_seed(0)
    condition, prior = {"channels": 0, "embedding_dim": 8}, {"residual": True, "preconditioning": SETTINGS}
    small = {"dim": 8, "dim_mults": (1, 2), "blocks": 1, "head_dim": 8, "condition": condition, "prior": prior}
    return UNet3D(2, **{**small, **options})


@pytest.mark.parametrize("timestep", [5, 300, 700, 999])
@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "flow"])
def test_mean_and_uncertainty_are_those_of_the_gaussian(timestep, prediction):
    """Among many latents with the same noisy value, the mean and standard deviation of their targets."""
    generator = torch.Generator().manual_seed(0)
    prior, n = 0.8, 400_000
    clean = prior + 0.5 * torch.randn(n, generator=generator)
    schedule = NoiseSchedule(NoiseObjective(prediction=prediction))
    shape, when = (1, 1, n, 1, 1), torch.tensor([timestep])
    clean, eps = clean.view(shape), torch.randn(n, generator=generator).view(shape)
    noisy = schedule.add_noise(clean, eps, when)
    preconditioning = GaussianPreconditioning(**SETTINGS, prediction=prediction)
    mean, scale = preconditioning(noisy, torch.full(shape, prior), torch.full(shape, 0.5), when, None)
    missed, noisy = (schedule.target(clean, eps, when) - mean).flatten(), noisy.flatten()
    assert missed.mean().item() == pytest.approx(0.0, abs=4e-3)
    assert missed.std().item() == pytest.approx(scale.unique().item(), rel=0.01)
    assert (
        abs(torch.corrcoef(torch.stack([missed, noisy]))[0, 1]) < 0.01
    )  # the residual is independent of the noisy value


def test_an_untrained_network_is_the_gaussian_posterior_and_exact_without_noise():
    net, x, prior = network(), torch.randn(2, 2, 4, 4, 4), torch.randn(2, 2, 4, 4, 4)
    out = net(x, torch.tensor([0, 999]), torch.zeros(2, 8), prior=prior, prior_std=torch.full_like(x, 0.5))
    torch.testing.assert_close(out[0], x[0], atol=0.05, rtol=0)
    torch.testing.assert_close(out[1], prior[1], atol=2e-3, rtol=0)


def test_an_untrained_flow_leads_from_pure_noise_to_the_prior():
    prior, start = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 2, 4, 4, 4)
    net = network(prior={"residual": True, "preconditioning": {**SETTINGS, "prediction": "flow"}})
    std = torch.full_like(prior, 1e-3)
    out = net(start, torch.tensor([999]), torch.zeros(1, 8), prior=prior, prior_std=std)
    torch.testing.assert_close(start - out, prior)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "flow"])
def test_an_untrained_network_samples_the_gaussian(prediction):
    scheduler = NoiseObjective(prediction=prediction).scheduler()
    sampler = make_sampler("DPMSolverMultistepScheduler", scheduler)
    set_steps(sampler, 50, torch.device("cpu"))
    net = network(prior={"residual": True, "preconditioning": {**SETTINGS, "prediction": prediction}})
    noise = torch.randn(8, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    given = {
        "embedding": torch.zeros(8, 8),
        "prior": torch.full_like(noise, 0.7),
        "prior_std": torch.full_like(noise, 0.5),
    }

    def predict(latents, timestep):
        return net(latents, network_timestep(sampler, timestep).expand(8), **given)

    with torch.no_grad():
        samples = sample_latents(sampler, predict, noise, dict)
    assert samples.mean().item() == pytest.approx(0.7, abs=0.02)
    assert samples.std().item() == pytest.approx(0.5, rel=0.03)


def test_epsilon_is_refused():
    with pytest.raises(ValueError, match="choose sample, v_prediction or flow"):
        GaussianPreconditioning(**SETTINGS, prediction="epsilon")


def test_pure_noise_changes_nothing_and_a_little_signal_does():
    net, prior = network(), torch.randn(2, 2, 4, 4, 4)
    torch.nn.init.normal_(net.out.weight, std=0.3)
    given = {"embedding": torch.randn(2, 8), "prior": prior, "prior_std": torch.full_like(prior, 0.5)}
    one, other = torch.randn(2, 2, 2, 4, 4, 4).unbind()
    last, before = torch.tensor([999, 999]), torch.tensor([999, 998])
    torch.testing.assert_close(net(one, last, **given), net(other, last, **given))
    out = net(one, before, **given), net(other, before, **given)
    torch.testing.assert_close(out[0][0], out[1][0])
    assert (out[0][1] - out[1][1]).abs().max() > 1e-3


def test_a_dropped_prior_leaves_latents_of_unit_variance():
    net, x = network(), torch.randn(1, 2, 4, 4, 4)
    t = torch.tensor([500])
    given = {"prior": torch.randn(1, 2, 4, 4, 4), "prior_std": torch.rand(1, 2, 4, 4, 4)}
    out = net(x, t, torch.zeros(1, 8), keep=torch.zeros(1), **given)
    signal = NoiseSchedule(NoiseObjective(prediction="sample")).signal[500]
    torch.testing.assert_close(out, signal * x)
    torch.testing.assert_close(net(x, t), out)


def test_a_prior_without_its_deviation_is_refused():
    net, x = network(), torch.randn(1, 2, 4, 4, 4)
    with pytest.raises(ValueError, match="prior_std"):
        net(x, torch.tensor([500]), torch.zeros(1, 8), prior=x)


def test_weights_are_those_of_a_network_without_it():
    assert network().state_dict().keys() == network(prior={"residual": True}).state_dict().keys()


@pytest.mark.parametrize("options", [{"regression": True}, {"prior": {"preconditioning": SETTINGS}}])
def test_preconditioning_without_a_residual_prior_is_refused(options):
    with pytest.raises(ValueError, match="preconditioning needs a linear prior"):
        network(**options)


@pytest.fixture(params=["sample", "flow"])
def pipeline(request):
    """A pipeline with a preconditioned denoiser and a fitted prior."""
    xrays, latents = torch.stack([item(i)["xray"] for i in range(8)]), torch.randn(8, 4, 8, 8, 8)
    prior = LinearPrior((4, 8, 8, 8), pixels=8, rank=3, deviation=True).fit(xrays, latents)
    condition = {"channels": 4, "embedding_dim": 32}
    use = {"residual": True, "preconditioning": {**SETTINGS, "prediction": request.param}}
    denoiser = UNet3D(4, dim=8, dim_mults=(1, 2), blocks=1, head_dim=8, condition=condition, prior=use)
    return module(objective=NoiseObjective(prediction=request.param), denoiser=denoiser, prior=prior).pipeline()


def test_a_saved_pipeline_samples_the_same_volumes(pipeline, tmp_path):
    xray = item(0)["xray"][None]
    default = {"scheduler": "DPMSolverMultistepScheduler", "steps": 4}
    volumes = pipeline.set_sampler(**default)(xray, guidance_scale=1.5).volumes
    assert pipeline.describe()["step_spacing"] == "trailing" and torch.isfinite(volumes).all()
    path = export_pipeline(pipeline, tmp_path / "model.safetensors", dtype=torch.float32)
    again = load_pipeline(path).set_sampler(**default)
    assert torch.equal(again.prior.std, pipeline.prior.std)
    assert torch.equal(again(xray, guidance_scale=1.5).volumes, volumes)
    pipeline.set_sampler(**default, spacing="log_snr")
    assert pipeline.describe()["step_spacing"] == "log_snr"
    assert pipeline.set_sampler(**default).describe()["step_spacing"] == "trailing"
