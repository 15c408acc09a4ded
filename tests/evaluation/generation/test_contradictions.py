"""X-rays of known pose that contradict what the network predicts from them: each is named in one warning."""

import logging

import pytest
import torch
from consistent_parts import planted
from ddpm_parts import EXTENT
from demo_parts import small_pipeline

from dataset.imaging.geometry import make_pose
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.public_pipeline import XrayToCTPipeline
from evaluation.generation.sample import Sampling, sample_volumes

XRAYS = torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(3)) * torch.tensor([1.0, 0.5]).view(
    2, 1, 1, 1, 1
)
POSES = make_pose(EXTENT).expand(2, 1, 9)


@pytest.fixture(scope="module")
def tensors():
    """Takes tensors; its limit lies between the first chi² of the two X-rays, of which the second has the larger."""
    made = small_pipeline().set_sampler("DPMSolverMultistepScheduler", 2)
    made.register_modules(consistency=planted())
    first, second = made(XRAYS, POSES, ids=["xray"] * 2).first_chi2
    made.consistency.limit.copy_((first + second) / 2)
    assert first < made.consistency.limit < second
    return made, f"{second:.2f}"


def warnings_of(caplog) -> list[str]:
    texts = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    return [text for text in texts if "chi²" in text]


def test_the_xray_above_the_limit_has_a_warning_in_log_and_settings(tensors, caplog):
    made, value = tensors
    first, second = XrayToCTPipeline.of(made)(XRAYS, pose=POSES)
    (line,) = warnings_of(caplog)
    assert line.startswith(f"xray_2: chi² {value} ") and "\n" not in line
    assert f"above {made.consistency.limit:.2f}, " in line
    assert all(word in line for word in ("pose", "grey scale", "noise", "patient", "sampler.consistency=off"))
    assert second.settings["consistency"] == "on" and second.settings["agreement"]["chi2"] > 0
    assert line == f"xray_2: {second.warnings[-1]}" and second.settings["warnings"] == second.warnings
    assert not any("chi²" in text for text in first.warnings)


def test_no_warning_where_nothing_is_compared_or_contradicts(tensors, caplog):
    pipe = XrayToCTPipeline.of(tensors[0])
    for one in pipe(XRAYS, pose=torch.full_like(POSES, torch.nan)):
        assert one.settings["consistency"] == "off: unknown pose" and one.settings["agreement"] is None
    pipe(XRAYS[:1], pose=POSES[:1])
    assert not warnings_of(caplog)


@pytest.mark.parametrize(("mode", "advised"), [(None, True), ("off", False)])
def test_evaluations_name_the_case(tensors, caplog, mode, advised):
    made = tensors[0].set_sampler("DPMSolverMultistepScheduler", 2, consistency=mode)
    inputs = ModelInputs(XRAYS, POSES, torch.tensor([EXTENT, EXTENT]))
    list(sample_volumes(made, inputs, ["case_a", "case_b"], Sampling(batch_size=1)))
    (line,) = warnings_of(caplog)
    assert line.startswith("case_b: chi² ") and ("set sampler.consistency=off" in line) == advised
