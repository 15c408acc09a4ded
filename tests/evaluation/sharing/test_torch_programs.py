"""Programs of `torch.export` give what their networks give, and the example of the card the volume of the pipeline."""

import json
from contextlib import nullcontext

import pytest
import torch
from ddpm_parts import module

from common.errors import UserError
from ddpm.checkpoint.write import header_of
from ddpm.consistency.projection_consistency import ProjectionConsistency
from ddpm.diffusion.objective import NoiseObjective
from ddpm.diffusion.sample_noise import SampleNoise
from evaluation.sharing import torch_programs
from evaluation.sharing.exporter import export
from evaluation.sharing.model_card import model_card

NOISE = 'torch.randn(n, *about["latent_shape"])'


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    made = module().pipeline().set_sampler("DPMSolverMultistepScheduler", 3)
    made.register_to_config(protocol={**made.protocol, "xray_size": [64, 64]})
    return made


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    return export(pipeline, tmp_path_factory.mktemp("programs") / "export", "torch_export")


@pytest.mark.slow
def test_the_example_of_the_card_gives_the_volumes_of_the_pipeline(pipeline, folder, monkeypatch):
    card = (folder / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert NOISE in code
    xray = torch.rand(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    noise = SampleNoise(7, ["0"] * 4, list(range(4)), antithetic=True)
    known = {"xray": xray, "noise": noise.start((4, 8, 8, 8))}
    monkeypatch.chdir(folder)
    with torch.no_grad():  # restores what the example sets
        exec(code.replace(NOISE, "noise"), known)
    monkeypatch.setattr("ddpm.pipeline.inference_autocast", lambda device: nullcontext())  # float32, as the programs
    expected = pipeline(xray, seed=7, num_samples=4).volumes[0]
    torch.testing.assert_close(known["volumes"][:, 0], expected, atol=0.1, rtol=0)  # HU, of a range of 2000
    assert expected.std() > 10


@pytest.mark.parametrize(
    ("prediction", "sampler", "words"),
    [
        ("v_prediction", {"spacing": "log_snr"}, "sampler.spacing=log_snr.*set sampler.spacing=trailing"),
        ("v_prediction", {"guidance_scale": 2.0}, "sampler.guidance_scale=2: .*set 1"),
        ("flow", {"scheduler": "FlowMatchEulerDiscreteScheduler"}, "sampler.scheduler=FlowMatch.*set DPMSolverMulti"),
    ],
)
def test_a_sampler_that_diffusers_alone_does_not_have_is_refused(prediction, sampler, words, tmp_path):
    made = module(objective=NoiseObjective(prediction=prediction, zero_terminal_snr=prediction != "flow")).pipeline()
    made.set_sampler(**{"scheduler": "DPMSolverMultistepScheduler", "steps": 3, **sampler})
    with pytest.raises(UserError, match=f"format=torch_export: {words}.*format=diffusers"):
        torch_programs.write_programs(made, tmp_path)
    assert not list(tmp_path.iterdir())


def test_consistency_is_no_part_of_the_programs(tmp_path):
    made = module().pipeline()
    made.register_modules(consistency=ProjectionConsistency((4, 8, 8, 8), (1, 1, 1), pixels=8, rank=1, max_side=2))
    assert torch_programs.portable_sampler(made.set_sampler("DDIMScheduler", 3)) is made.scheduler
    with pytest.raises(UserError, match="sampler.consistency=on: .*set off.*format=diffusers"):
        torch_programs.write_programs(made.set_sampler("DDIMScheduler", 3, consistency="on"), tmp_path)


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("DDIMScheduler", {}),
        ("DDPMScheduler", {"antithetic": False}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}),
    ],
)
def test_the_chosen_sampler_is_written(pipeline, tmp_path, monkeypatch, scheduler, options):
    monkeypatch.setattr(torch_programs, "_write_program", lambda *arguments: 0.0)
    made = module().pipeline().set_sampler(scheduler, 3, **options)
    made.register_to_config(protocol=pipeline.protocol)
    torch_programs.write_programs(made, tmp_path)
    found = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert found["_class_name"] == scheduler and found["timestep_spacing"] == "trailing"
    assert options.items() - {("antithetic", False)} <= found.items()
    card = model_card(header_of(made), made.describe(), None, "x", "torch_export")
    assert f"import {scheduler}\n" in card and f"= {scheduler}.from_pretrained" in card and "{sampler}" not in card
    about = json.loads((tmp_path / "programs.json").read_text())
    assert about["sampler"] == scheduler and about["steps"] == 3


@pytest.mark.slow
def test_a_program_that_differs_from_its_network_is_refused(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_programs, "_difference", lambda found, expected: 1e-3)
    with pytest.raises(UserError, match="program of xray_encoder differs from its network by 1.0e-03"):
        export(pipeline, tmp_path / "export", "torch_export")
    assert not list(tmp_path.iterdir())


def test_a_part_that_torch_cannot_export_ends_in_one_line(pipeline, tmp_path, monkeypatch):
    def forward(self, xray, pose, extent):
        return {"embedding": xray if xray.sum() > 0 else pose}

    monkeypatch.setattr(torch_programs.XrayToCondition, "forward", forward)
    with pytest.raises(UserError, match=r"torch cannot export xray_encoder \(.*\); use format=diffusers") as error:
        export(pipeline, tmp_path / "export", "torch_export")
    assert "\n" not in str(error.value)
