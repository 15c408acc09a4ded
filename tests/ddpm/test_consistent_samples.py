"""Samples of the pipeline with and without the update towards the X-ray, for every kind of prediction."""

import pytest
import torch
from consistent_parts import planted
from ddpm_parts import EXTENT, VOLUME, module, shared_pipeline
from vae_files import kl

from common.errors import UserError
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import make_pose, unknown_pose
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import export_pipeline
from ddpm.consistency.films.measurement import FilmMeasurement
from ddpm.diffusion.objective import NoiseObjective
from ddpm.latent import SliceVAELatents
from ddpm.pipeline import XrayToCTPipeline

SAMPLERS = {"flow": "FlowMatchEulerDiscreteScheduler"}
XRAY, POSE = torch.rand(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(3)), make_pose(EXTENT)[None, None]


def pipeline(prediction: str = "v_prediction", with_part: bool = True) -> XrayToCTPipeline:
    objective = NoiseObjective(prediction=prediction, zero_terminal_snr=prediction != "epsilon")
    made = module(objective=objective).pipeline()
    if with_part:
        made.register_modules(consistency=planted())
    return made


def sample(made: XrayToCTPipeline, mode, pose=POSE, **options):
    made.set_sampler(SAMPLERS.get(made.describe()["prediction"], "DPMSolverMultistepScheduler"), 3, consistency=mode)
    return made(XRAY, pose, 2, seed=1, allow_any_picture=True, **options)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_samples_agree_better_with_their_xray_for_every_prediction(prediction):
    made = pipeline(prediction)
    free, updated = [], sample(made, "on")
    sample(made, "off", preview=lambda step, clean: free.append(clean))
    measurement = made.consistency.measurement(XRAY[0], POSE[0], torch.tensor(EXTENT))
    assert (updated.chi2[0] < 0.3 * measurement.chi2(free[-1])).all()
    assert torch.isfinite(updated.volumes).all()


def two_views() -> XrayToCTPipeline:
    made = shared_pipeline()
    made.register_modules(consistency=planted(views=2))
    return made


def slices_of_a_vae() -> XrayToCTPipeline:
    """Latents of the 2D VAE, which keep every slice: `(4, 32, 16, 16)` for a volume of 32 voxels a side."""
    torch.manual_seed(0)
    made = module(objective=NoiseObjective(prediction="v_prediction", zero_terminal_snr=True)).pipeline()
    encoder = SliceVAELatents.from_vae(kl(), "test")
    encoder.measure(encoder.encode_raw(torch.tanh(torch.randn(2, 1, *VOLUME))))
    made.register_modules(latent_encoder=encoder, consistency=planted(encoder.latent_shape(VOLUME)))
    return made


@pytest.mark.parametrize("make", [two_views, slices_of_a_vae])
def test_two_views_and_latents_of_slices_obey_the_same_law(make):
    """Updated samples agree better with all their views; without update they have the bits of a model without it."""
    made, free = make(), []
    poses = DrrSettings().poses(EXTENT, made.protocol.get("views", 1))[None]
    xray = torch.rand(1, poses.shape[1], 1, 64, 64, generator=torch.Generator().manual_seed(3))

    def drawn(mode, **options):
        made.set_sampler("DPMSolverMultistepScheduler", 3, consistency=mode)
        return made(xray, poses, 2, seed=1, allow_any_picture=True, **options)

    updated, off = drawn("on"), drawn("off", preview=lambda step, clean: free.append(clean))
    measurement = made.consistency.measurement(xray[0], poses[0], torch.tensor(EXTENT))
    before = measurement.chi2(free[-1])
    assert (before > made.consistency.level).all() and (updated.chi2[0] < 0.3 * before).all()
    assert torch.isfinite(updated.volumes).all() and not torch.equal(updated.volumes, off.volumes)
    made.register_modules(consistency=None)
    assert torch.equal(drawn(None).volumes, off.volumes)


def test_off_and_an_unknown_pose_give_the_bits_of_a_model_without_the_part():
    made = pipeline()
    expected = sample(pipeline(with_part=False), None)
    assert expected.chi2 is None
    found = sample(made, "off")
    assert torch.equal(found.volumes, expected.volumes) and found.chi2 is None
    nominal = unknown_pose(1, ("PA",))[None]
    expected = sample(pipeline(with_part=False), None, nominal)
    assert torch.equal(sample(made, None, nominal).volumes, expected.volumes)


def test_on_updates_a_film_towards_its_known_pixels_alone():
    made, nominal = pipeline(), unknown_pose(1, ("PA",))[None]
    found, free = sample(made, "on", nominal), sample(made, "off", nominal)
    assert torch.isfinite(found.chi2).all() and not torch.equal(found.volumes, free.volumes)
    assert found.first_chi2 is None and free.first_chi2 is None
    (film,) = found.films
    assert free.films is None and len(film["gain"]) == 1 and 0.4 <= film["gain"][0] <= 2.5
    shares = {name: abs(film[name][0]) / limit for name, limit in (("azimuth", 5.0), ("down", 15.0))}
    assert all((share >= 0.999) <= (name in film["at_bound"]) for name, share in shares.items())
    unseen = torch.full_like(XRAY, torch.nan)
    with torch.no_grad():
        film = FilmMeasurement.of(made.consistency, unseen[0], POSE[0], torch.tensor(EXTENT))
    assert not film.update(torch.randn(2, 4, 8, 8, 8), 0.5, 0.8).change.any()


@pytest.mark.parametrize("mode", ["on", "off"])
def test_the_chi2_of_the_first_prediction_is_the_same_with_and_without_updates(mode):
    made, free = pipeline(), []
    sample(made, "off", preview=lambda step, clean: free.append(clean))
    measurement = made.consistency.measurement(XRAY[0], POSE[0], torch.tensor(EXTENT))
    expected = measurement.chi2(free[0].mean(dim=0)[None])
    for size in (1, 8):
        torch.testing.assert_close(sample(made, mode, batch_size=size).first_chi2, expected, rtol=1e-3, atol=1e-4)
    assert sample(made, None, unknown_pose(1, ("PA",))[None]).first_chi2 is None


def test_the_batch_changes_no_sample():
    made = pipeline()
    latents: dict[int, list] = {1: [], 8: []}
    for size, found in latents.items():
        sample(made, "on", batch_size=size, preview=lambda step, clean, found=found: found.append(clean))
    together, alone = latents[8][-1], torch.cat([latents[1][2], latents[1][5]])  # of the last of 3 steps
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)


def test_on_without_the_part_ends_in_one_line():
    with pytest.raises(UserError, match=r"sampler.consistency=on: .*train/fit_parts.py") as error:
        sample(pipeline(with_part=False), "on")
    assert "\n" not in str(error.value)


def test_the_part_survives_the_file_and_the_folder(tmp_path):
    made = pipeline()
    expected = sample(made, "on")
    folder, file = tmp_path / "folder", export_pipeline(made, tmp_path / "model.safetensors", torch.float32)
    made.save_pretrained(folder)
    assert XrayToCTPipeline.from_pretrained(folder).consistent is True  # the index holds the sampler
    for again in (load_pipeline(file), XrayToCTPipeline.from_pretrained(folder)):
        torch.testing.assert_close(sample(again, None).volumes, expected.volumes, atol=0.5, rtol=0.0)
        assert again.describe()["consistency"] == "known poses"
