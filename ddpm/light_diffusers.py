"""Imports diffusers without what only its other pipelines need, for commands that only generate.

Where they are installed, diffusers imports PEFT, transformers, torch's compiler and scipy's statistics and integrals,
and every model of its own for the sake of one VAE, and reads the file lists of all installed packages: more than half
of the time that a generation takes to start. A program that uses other pipelines of diffusers needs them, so the
public API (`xray2ct`) imports diffusers as it is.
"""

import gc
import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

UNNEEDED = ("peft", "transformers", "torch._dynamo")  # diffusers takes a package that cannot be imported for absent
LATER = ("scipy.stats", "scipy.integrate", "requests")  # imported when one of their names is used
MODULES = ("pipelines.pipeline_utils", "hooks", "schedulers.scheduling_flow_match_euler_discrete",
           "schedulers.scheduling_dpmsolver_multistep", "schedulers.scheduling_ddpm")  # fmt: skip


@contextmanager
def start_of_process() -> Iterator[None]:
    """Imports within the block run without garbage collection, whose walks through all that is loaded take time.

    What they load is exempt from later collections as well, also from those that end the process. Nothing changes
    where torch is loaded before: the process has started already.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_diffusers() -> None:
    """Imports the base classes of pipelines and models; nothing if they are loaded. Afterwards all can be imported."""
    import torch  # here, since `start_of_process` begins before it

    if f"diffusers.{MODULES[0]}" in sys.modules:
        return
    stand_ins = dict.fromkeys(UNNEEDED)  # None: an import raises ModuleNotFoundError
    stand_ins |= {name: _Later(name) for name in LATER}
    stand_ins = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    disable, packages = torch.compiler.disable, importlib.metadata.packages_distributions
    sys.modules.update(stand_ins)
    torch.compiler.disable = _undecorated
    importlib.metadata.packages_distributions = lambda: _Packages(packages)
    try:
        models = importlib.import_module("diffusers.models")
        models.AutoencoderKL = type("AutoencoderKL", (), {})  # pipelines only ask whether a part is one
        _need_no_compiler(importlib.import_module("diffusers.utils.torch_utils"))
        for name in MODULES:
            importlib.import_module(f"diffusers.{name}")
        del models.AutoencoderKL
        sys.modules[f"diffusers.{MODULES[-1]}"].DDPMScheduler._get_compatibles()  # imports every scheduler
    finally:
        torch.compiler.disable, importlib.metadata.packages_distributions = disable, packages
        for name in stand_ins:
            del sys.modules[name]


class _Later(ModuleType):
    """In place of a module, which it imports when one of its names is used."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


class _Packages(Mapping):
    """The mapping that `importlib.metadata.packages_distributions` returns, read when something is looked up."""

    def __init__(self, read):
        self._read, self._found = read, None

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, name: str) -> list[str]:
        self._found = self._read() if self._found is None else self._found
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


def _need_no_compiler(utilities: ModuleType) -> None:
    """Asks whether a part is compiled only where the compiler is loaded, without which none is."""
    asked = utilities.is_compiled_module
    utilities.is_compiled_module = lambda part: "torch._dynamo" in sys.modules and asked(part)


def _undecorated(function=None, **options):
    """In place of `torch.compiler.disable`, a decorator that imports the compiler."""
    return function or _undecorated
