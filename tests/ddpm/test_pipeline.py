"""Generation: the same seed gives the same volume in every batch; guidance; sizes and units."""

from functools import partial

import pytest
import torch
from ddpm_parts import EXTENT, VOLUME, item, module

from common.errors import UserError
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import export_pipeline


def awake(std: float = 0.02):
    """A pipeline whose denoiser answers: layers that start at zero are filled."""
    m = module()
    for p in m.trained["denoiser"].parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=std)
    return m.pipeline()


@pytest.fixture(scope="module")
def pipeline():
    return awake().set_sampler("DPMSolverMultistepScheduler", 3)


@pytest.fixture(scope="module")
def xrays():
    return torch.stack([item(i)["xray"] for i in range(3)])


def test_volumes_are_in_hu_and_in_the_window(pipeline, xrays):
    out = pipeline(xrays, num_samples=2).volumes
    assert out.shape == (3, 2, *VOLUME)
    assert out.min() >= -1000 and out.max() <= 1000 and out.std() > 1


def test_a_volume_depends_on_seed_and_id_not_on_its_batch(pipeline, xrays):
    together = pipeline(xrays, num_samples=2, ids=["a", "b", "c"], batch_size=5).volumes
    alone = pipeline(xrays[1:2], num_samples=2, ids=["b"], batch_size=1).volumes
    assert (together[1] - alone[0]).abs().mean() < 1.0  # HU; bfloat16 rounds by the shape of the batch
    assert torch.equal(alone, pipeline(xrays[1:2], num_samples=2, ids=["b"], batch_size=1).volumes)
    assert (pipeline(xrays[1:2], ids=["b"], seed=1).volumes - alone[:, :1]).abs().mean() > 1.0
    assert (together[1, 0] - together[1, 1]).abs().mean() > 1.0


def test_the_xray_changes_the_volume(pipeline, xrays):
    a, b = (pipeline(xrays[i : i + 1], ids=["same"]).volumes for i in (0, 1))
    assert (a - b).abs().mean() > 0.1


def test_guidance_of_zero_ignores_the_xray(pipeline, xrays):
    a, b = (pipeline(xrays[i : i + 1], ids=["same"], guidance_scale=0.0).volumes for i in (0, 1))
    assert (a - b).abs().max() < 1e-3 * 2000


def test_guidance_needs_a_model_trained_with_dropped_xrays(xrays):
    made = module()
    made.protocol = {**made.protocol, "condition_drop": 0.0}
    pipeline = made.pipeline()
    pipeline(xrays[:1], guidance_scale=1.0, num_inference_steps=1)
    for asked in (
        lambda: pipeline(xrays[:1], guidance_scale=2.0),
        lambda: pipeline.set_sampler("DDIMScheduler", 3, 2),
    ):
        with pytest.raises(UserError, match="sampler.guidance_scale=2: .*model.conditioning.drop=0"):
            asked()


def test_an_unknown_pose_is_the_nominal_one(pipeline, xrays):
    nominal = torch.stack([item(0)["pose"]])
    a = pipeline(xrays[:1], None).volumes
    b = pipeline(xrays[:1], torch.full((1, 1, 9), float("nan"))).volumes
    c = pipeline(xrays[:1], nominal, extent=torch.tensor([EXTENT])).volumes
    assert torch.equal(a, b) and torch.allclose(a, c, atol=1.0)


def test_progress_counts_every_step_of_every_batch(pipeline, xrays):
    seen = []
    pipeline(xrays, num_samples=2, batch_size=4, progress=lambda step, total: seen.append((step, total)))
    assert seen == [(i + 1, 6) for i in range(6)]


def test_a_whole_call_in_bfloat16_is_near_one_in_float32(xrays, monkeypatch):
    """Relative error below 1.5 % in all, of the decoder alone below 1 %.

    Without quantisation: it is exact in both, but turns a rounding at the border between two codes into another code.
    """
    made = awake(std=0.1).set_sampler("DPMSolverMultistepScheduler", 3)
    network = made.latent_encoder.network
    monkeypatch.setattr(network, "decode", partial(network.decode, quantise=False))
    latents = torch.randn(2, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {}
    for fast in (True, False):
        autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16, enabled=fast)
        monkeypatch.setattr("ddpm.pipeline.inference_autocast", lambda *_, autocast=autocast: autocast())
        found[fast] = made(xrays).volumes, made.decode(latents)
    for (fast, plain), limit in zip(zip(found[True], found[False], strict=True), (0.015, 0.01), strict=True):
        assert plain.std() > 100 and 0 < (fast - plain).norm() < limit * plain.norm()


SDE = {"algorithm_type": "sde-dpmsolver++", "spacing": "log_snr"}


@pytest.mark.parametrize(
    ("sampler", "options"), [("DDPMScheduler", {}), ("DDIMScheduler", {}), ("DPMSolverMultistepScheduler", SDE)]
)
def test_other_samplers_repeat_too(pipeline, xrays, sampler, options):
    other = module().pipeline().set_sampler(sampler, 3, **options)
    assert torch.equal(other(xrays[:1]).volumes, other(xrays[:1]).volumes)
    assert other.describe()["stochastic"] == (sampler == "DDPMScheduler" or bool(options))


def test_exported_pipeline_gives_the_same_volume(pipeline, xrays, tmp_path):
    path = export_pipeline(pipeline, tmp_path / "model.safetensors", dtype=torch.float32)
    again = load_pipeline(path).set_sampler("DPMSolverMultistepScheduler", 3)
    assert torch.equal(again(xrays[:1]).volumes, pipeline(xrays[:1]).volumes)
    small = export_pipeline(pipeline, tmp_path / "small.safetensors")
    assert small.stat().st_size < 0.6 * path.stat().st_size


def test_two_views_go_through_the_same_code(pipeline):
    two = torch.rand(1, 2, 1, 64, 64)
    assert pipeline(two).volumes.shape == (1, 1, *VOLUME)


def test_ids_must_fit(pipeline, xrays):
    with pytest.raises(ValueError, match="2 ids for 3 X-rays"):
        pipeline(xrays, ids=["a", "b"])


def test_a_few_steps_are_called_a_preview(pipeline):
    for steps, said in ((1, True), (4, True), (5, False), (12, False)):
        described = pipeline.set_sampler("DPMSolverMultistepScheduler", steps).describe()
        assert (described.get("preview") == "preview, spread too small") == said
    assert pipeline.set_sampler("DDIMScheduler", 6, guidance_scale=2.0).describe()["evaluations"] == 12
    pipeline.set_sampler("DPMSolverMultistepScheduler", 3)


def test_description_and_protocol_share_no_keys(pipeline):
    """Both stand side by side in protocols and settings."""
    taken = {"spacing", "window", "volume_size", "samples", "seed", "split", "cases", "dataset", "checkpoint"}
    assert not taken & set(pipeline.describe())


def test_steps_even_in_log_snr_are_an_option_of_the_pipeline(pipeline, xrays):
    volumes = pipeline.set_sampler("DPMSolverMultistepScheduler", 3, spacing="log_snr")(xrays[:1]).volumes
    assert pipeline.describe()["step_spacing"] == "log_snr" and torch.isfinite(volumes).all()
    pipeline.set_sampler("DPMSolverMultistepScheduler", 3)
    assert pipeline.describe()["step_spacing"] == "trailing"


def test_options_of_the_solver_are_in_its_description():
    made = module().pipeline()
    assert made.set_sampler("DPMSolverMultistepScheduler", 3).describe()["solver_options"] == {}
    described = made.set_sampler("DPMSolverMultistepScheduler", 3, solver_order=3).describe()
    assert described["solver_options"] == {"solver_order": 3} and made.scheduler.config.solver_order == 3
    assert made.set_sampler("DDPMScheduler", 3, clip_sample=True).describe()["solver_options"] == {"clip_sample": True}


def test_pairs_of_opposite_noise_are_drawn_by_every_sampler_that_can(pipeline):
    for name, paired in (("DPMSolverMultistepScheduler", True), ("DDIMScheduler", True), ("DDPMScheduler", False)):
        assert pipeline.set_sampler(name, 3).describe()["antithetic"] == paired
    with pytest.raises(UserError, match="sampler.antithetic=true: DDPMScheduler cannot draw opposite noise"):
        pipeline.set_sampler("DDPMScheduler", 3, antithetic=True)
    assert not pipeline.set_sampler("DPMSolverMultistepScheduler", 3, antithetic=False).describe()["antithetic"]
    pipeline.set_sampler("DPMSolverMultistepScheduler", 3)


def test_evaluations_and_progress_count_the_timesteps_that_are_visited(pipeline, xrays):
    """In log-SNR the last of many steps fall on one timestep."""
    seen = []
    pipeline.set_sampler("DPMSolverMultistepScheduler", 60, spacing="log_snr")
    pipeline(xrays[:1], progress=lambda done, total: seen.append((done, total)))
    count = len(seen)
    assert count < 60 and seen == [(i + 1, count) for i in range(count)]
    assert pipeline.describe()["evaluations"] == count and pipeline.describe()["steps"] == 60
    pipeline.set_sampler("DPMSolverMultistepScheduler", 3)


@pytest.mark.frontal_check
def test_other_pictures_are_refused_unless_allowed_or_their_pose_is_known(pipeline, xrays):
    with pytest.raises(UserError, match="X-ray chest: it does not look like a frontal chest X-ray"):
        pipeline(xrays[:1], ids=["chest"], num_inference_steps=1)
    allowed = pipeline(xrays[:1], num_inference_steps=1, allow_any_picture=True).volumes
    known = pipeline(xrays[:1], torch.stack([item(0)["pose"]]), num_inference_steps=1).volumes
    assert allowed.shape == known.shape
