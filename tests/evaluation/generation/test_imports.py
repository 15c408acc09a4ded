"""What a generation does not need is not imported: its start is what a user waits for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import sys
from evaluation.generation.open_pipeline import open_generator
from evaluation.generation.public_pipeline import XrayToCTPipeline
from evaluation.visualization.slices import SYNTHETIC
from dataset.imaging.lung_network import shipped_network
shipped_network()
print(*sys.modules)
"""
LEFT_OUT = {"pytorch_lightning", "monai", "wandb", "tensorboard", "sklearn", "skimage", "pandas", "matplotlib.pyplot",
            "SimpleITK", "nanodrr", "open_clip", "torchxrayvision", "gradio", "torchmetrics"}  # fmt: skip


COMMAND = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*sys.modules)
"""
NOT_BY_THE_COMMAND = LEFT_OUT | {"torch._dynamo", "sympy", "transformers", "peft", "scipy.stats", "scipy.optimize",
                                 "matplotlib", "diffusers.models.transformers"}  # fmt: skip


@pytest.mark.slow
def test_the_command_imports_what_it_needs_of_diffusers_alone(tmp_path):
    film = next((ROOT / "assets" / "films").glob("*.png"))
    words = ["evaluation/generate.py", f"xray={film}", f"output={tmp_path}", "sampler.steps=1", "device=cpu"]
    code = [sys.executable, "-c", COMMAND, *words]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(list(tmp_path.glob("*.nii.gz"))) == 1
    assert not NOT_BY_THE_COMMAND & set(done.stdout.split())


@pytest.mark.slow
def test_all_of_diffusers_is_there_after_the_imports_of_the_command():
    code = """
from ddpm.light_diffusers import import_diffusers
import_diffusers()
import torch
from diffusers import AutoencoderKL, DDPMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline
from diffusers.utils.torch_utils import is_compiled_module
import peft, scipy.stats, transformers
assert issubclass(AutoencoderKL, torch.nn.Module)
layer = torch.nn.Linear(2, 2)
assert is_compiled_module(torch.compile(layer)) and not is_compiled_module(layer)
FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True).set_timesteps(4)
from diffusers.schedulers import scheduling_lms_discrete
from diffusers.utils import import_utils, loading_utils
import requests, scipy.integrate
assert scheduling_lms_discrete.integrate.quad is scipy.integrate.quad and loading_utils.requests.get is requests.get
assert import_utils._package_map["PIL"] == ["pillow"] and "nothing" not in import_utils._package_map
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


@pytest.mark.slow
def test_a_generation_imports_no_training_and_no_statistics():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not LEFT_OUT & set(done.stdout.split())


@pytest.mark.slow
def test_the_start_of_a_process_is_exempt_from_garbage_collection_and_what_follows_is_not():
    code = """
import gc
from ddpm.light_diffusers import start_of_process
runs = []
gc.callbacks.append(lambda phase, info: runs.append(phase))
with start_of_process():
    before = len(runs)
    import torch
    assert len(runs) == before
assert gc.isenabled() and gc.get_freeze_count() > 100_000
frozen = gc.get_freeze_count()
with start_of_process():
    assert gc.isenabled()
assert gc.get_freeze_count() == frozen
circle = []
circle.append(circle)
del circle
assert gc.collect() >= 1
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
