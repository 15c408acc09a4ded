"""The sampler of a distilled model: its own alone, from a file, a folder and the config; others end in one line."""

import pytest
import torch
from ddpm_parts import module
from omegaconf import OmegaConf

from common.errors import UserError
from common.files import ROOT, sha256
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.read import read
from ddpm.checkpoint.write import export_pipeline
from ddpm.diffusion.distilled import DEFAULT, DISTILLED, choose_solver
from ddpm.pipeline import XrayToCTPipeline
from evaluation.generation.open_pipeline import set_sampler

OWN = {"scheduler": "DPMSolverMultistepScheduler", "steps": 2, "spacing": "trailing", "solver_order": 1}
PROTOCOL = {"distilled": {"sampler": OWN}}
XRAY = torch.rand(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(3))


def config(name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(ROOT / "config" / "sampler" / f"{name}.yaml"))


@pytest.fixture(scope="module")
def pipeline() -> XrayToCTPipeline:
    made = module().pipeline()
    protocol = {**made.protocol, "condition_drop": 0.0, **PROTOCOL}
    parts = {**dict.fromkeys(made._optional_components), **made.networks}
    return XrayToCTPipeline(**parts, scheduler=made.training_scheduler, protocol=protocol)


def test_the_model_chooses_its_sampler():
    expected = ("DPMSolverMultistepScheduler", 2, "trailing", {"solver_order": 1})
    assert choose_solver(PROTOCOL, DISTILLED, None, None, {}) == expected
    assert choose_solver(PROTOCOL, DISTILLED, 2, None, {"solver_order": 1}) == expected
    assert choose_solver(PROTOCOL, OWN["scheduler"], 2, None, {"solver_order": 1}) == expected


@pytest.mark.parametrize(
    ("chosen", "key"),
    [
        ((DISTILLED, 4, None, {}), "sampler.steps=4"),
        ((DISTILLED, None, "log_snr", {}), "sampler.spacing=log_snr"),
        (("DDIMScheduler", 2, None, {"solver_order": 1}), "sampler.scheduler=DDIMScheduler"),
        (("DPMSolverMultistepScheduler", 2, None, {}), "sampler.solver_order=None"),
    ],
)
def test_a_foreign_sampler_is_refused_in_one_line(chosen, key):
    with pytest.raises(UserError, match=f"{key}: .*set sampler=fast") as error:
        choose_solver(PROTOCOL, *chosen)
    assert "\n" not in str(error.value)


def test_other_models_take_any_sampler_but_that_of_a_distilled_one():
    assert choose_solver({}, "DDIMScheduler", 5, None, {"a": 1}) == ("DDIMScheduler", 5, "trailing", {"a": 1})
    made = module().pipeline()
    assert made.steps == DEFAULT["steps"]
    with pytest.raises(UserError, match="sampler=fast: these weights are not distilled; .*train/distill.py"):
        set_sampler(made, config("fast"))
    with pytest.raises(UserError, match="sampler.steps=null"):
        made.set_sampler("DDIMScheduler", None)


def test_the_file_and_the_folder_know_their_sampler(pipeline, tmp_path):
    export_pipeline(pipeline, tmp_path / "fast.safetensors", torch.float32)
    pipeline.save_pretrained(tmp_path / "folder")
    for path in (tmp_path / "fast.safetensors", tmp_path / "folder"):
        found = load_pipeline(path)
        assert (found.steps, found.solver_options, found.consistent) == (2, {"solver_order": 1}, False)
        expected = found(XRAY, num_samples=2, allow_any_picture=True).volumes
        set_sampler(found, config("fast"))
        assert torch.equal(found(XRAY, num_samples=2, allow_any_picture=True).volumes, expected)
        assert found.describe()["evaluations"] == 2
        with pytest.raises(UserError, match="set sampler=fast"):
            set_sampler(found, config("default"))
        with pytest.raises(UserError, match="steps=3: these weights are distilled for 2 steps"):
            found(XRAY, num_inference_steps=3, allow_any_picture=True)
        with pytest.raises(UserError, match="guidance_scale=2"):
            found(XRAY, guidance_scale=2.0, allow_any_picture=True)


def test_the_included_student_has_the_parts_and_the_patients_of_the_included_teacher():
    teacher, student = (read(ROOT / "assets" / f"{name}.safetensors") for name in ("chest_128", "chest_128_fast"))
    assert student.protocol["distilled"]["teacher"]["sha256"] == sha256(teacher.path)
    for split in ("train", "val"):
        assert set(teacher.protocol["seen"][split]) <= set(student.protocol["seen"][split])
    assert teacher.weights.keys() == student.weights.keys()
    same = {key for key, value in teacher.weights.items() if torch.equal(value, student.weights[key])}
    assert same >= {key for key in teacher.weights if not key.startswith("denoiser.")}


def test_few_steps_of_a_distilled_model_are_no_preview(pipeline):
    assert pipeline.preview is None and "preview" not in pipeline.describe()
    assert module().pipeline().set_sampler("DDIMScheduler", 2).preview
