"""Imports diffusers without what only its other pipelines need, for commands that only generate.

Where they are installed, diffusers imports PEFT, transformers, torch's compiler and scipy's statistics, and every
model of its own for the sake of one VAE: more than half of the time that a generation takes to start. A program that
uses other pipelines of diffusers needs them, so the public API (`xray2ct`) imports diffusers as it is.
"""

import importlib
import sys
from types import ModuleType

import torch

UNNEEDED = ("peft", "transformers", "torch._dynamo")  # diffusers takes a package that cannot be imported for absent
LATER = "scipy.stats"  # schedulers import it for noise levels that no sampler here has; scipy loads it when it is used
MODULES = ("pipelines.pipeline_utils", "hooks", "schedulers.scheduling_flow_match_euler_discrete",
           "schedulers.scheduling_dpmsolver_multistep", "schedulers.scheduling_ddpm")  # fmt: skip


def import_diffusers() -> None:
    """Imports the base classes of pipelines and models; nothing if they are loaded. Afterwards all can be imported."""
    if f"diffusers.{MODULES[0]}" in sys.modules:
        return
    stand_ins = {**dict.fromkeys(UNNEEDED), LATER: ModuleType(LATER)}  # None: an import raises ModuleNotFoundError
    stand_ins = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    disable = torch.compiler.disable
    sys.modules.update(stand_ins)
    torch.compiler.disable = _undecorated
    try:
        models = importlib.import_module("diffusers.models")
        models.AutoencoderKL = type("AutoencoderKL", (), {})  # pipelines only ask whether a part is one
        _need_no_compiler(importlib.import_module("diffusers.utils.torch_utils"))
        for name in MODULES:
            importlib.import_module(f"diffusers.{name}")
        del models.AutoencoderKL
        sys.modules[f"diffusers.{MODULES[-1]}"].DDPMScheduler._get_compatibles()  # imports every scheduler
    finally:
        torch.compiler.disable = disable
        for name in stand_ins:
            del sys.modules[name]


def _need_no_compiler(utilities: ModuleType) -> None:
    """Asks whether a part is compiled only where the compiler is loaded, without which none is."""
    asked = utilities.is_compiled_module
    utilities.is_compiled_module = lambda part: "torch._dynamo" in sys.modules and asked(part)


def _undecorated(function=None, **options):
    """In place of `torch.compiler.disable`, a decorator that imports the compiler."""
    return function or _undecorated
