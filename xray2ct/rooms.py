"""Imports the folders of the project beside modules of the user that have the same names (`dataset`, `train`, …).

A clone at the root of which Python runs imports its folders under their own names. Elsewhere, as after
`pip install`, they load below `xray2ct` (`xray2ct.dataset.imaging`), and an `import dataset` inside them means
`xray2ct.dataset`: each of their modules has builtins with an `__import__` that does so.
"""

import builtins
import functools
import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

PACKAGE = "xray2ct"
ROOMS = ("common", "dataset", "ddpm", "evaluation", "train", "vq_gan_3d", "demo")
HERE = Path(__file__).resolve().parent
ROOT = HERE if (HERE / "common").is_dir() else HERE.parent  # an installed copy holds the folders, a clone is beside


def load(name: str) -> ModuleType:
    """The module `name` of the project, such as `common.errors`."""
    return importlib.import_module(name if _importable() else f"{PACKAGE}.{name}")


def library_message(error: BaseException | None) -> str | None:
    """How to mend torch and torchvision of two different builds, which break imports of other libraries, or None."""
    while error is not None:
        if "torchvision::" in str(error):
            return (
                "torchvision is not of the same build as torch; install both from one index in one command, such as "
                "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
            )
        error = error.__cause__ or error.__context__
    return None


def foreign(room: str) -> str | None:
    """The file of another module that Python takes for a folder of the project; None for our own, "" for none."""
    module = sys.modules.get(room)
    spec = module.__spec__ if module is not None else importlib.util.find_spec(room)
    places = [] if spec is None else list(spec.submodule_search_locations or [spec.origin or ""])
    if any(Path(place).resolve() == ROOT / room for place in places):
        return None
    return places[0] if places else ""


@functools.cache  # one answer a process: otherwise a class would exist twice
def _importable() -> bool:
    """Whether Python finds every folder of the project under its own name."""
    return all(foreign(room) is None for room in ROOMS)


class RoomFinder:
    """Finds `xray2ct.<room>` and what is below it in the folders of the project."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        if package != PACKAGE or rest.partition(".")[0] not in ROOMS:
            return None
        spec = PathFinder.find_spec(name, path if "." in rest else [str(ROOT)])
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _RoomLoader(spec.loader.name, spec.loader.path)
        return spec


class _RoomLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        module.__builtins__ = _BUILTINS
        super().exec_module(module)


def _import(name: str, globals=None, locals=None, fromlist=(), level: int = 0) -> ModuleType:
    """`__import__` of the modules below `xray2ct`: names of rooms mean those below `xray2ct`."""
    if level or name.partition(".")[0] not in ROOMS:
        return builtins.__import__(name, globals, locals, fromlist, level)
    module = builtins.__import__(f"{PACKAGE}.{name}", globals, locals, fromlist or (), 0)
    return module if fromlist else sys.modules[f"{PACKAGE}.{name.partition('.')[0]}"]


_BUILTINS = {**vars(builtins), "__import__": _import}
sys.meta_path.insert(0, RoomFinder)
