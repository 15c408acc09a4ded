"""Programs of `torch.export` give what their networks give, and the example of the card the volume of the pipeline."""

from contextlib import nullcontext

import pytest
import torch
from ddpm_parts import module

from common.errors import UserError
from ddpm.diffusion.sample_noise import SampleNoise
from evaluation.sharing import torch_programs
from evaluation.sharing.exporter import export

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
