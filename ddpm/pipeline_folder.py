"""diffusers folders (`model_index.json`, a sub-folder for each part), checked before anything is built from them.

diffusers itself imports any class that the index names, fills missing weights with random ones, and writes the path
into the next folder. Here a folder names only classes of the registry, has exactly the weights of its parts, and holds
neither links that lead out of it nor paths.
"""

import json
from pathlib import Path

import torch
from diffusers import SchedulerMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from common.errors import UserError
from common.files import atomic_path
from ddpm.registry import MOVED, NETWORKS, OPTIONAL, PARTS, RENAMED_CLASSES, RENAMED_PARTS, SCHEDULERS, upgrade_config
from ddpm.weights.licences import public_name

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INSTALLED = "xray2ct."  # before the names of modules where the project is installed (xray2ct/rooms.py)
LIBRARY = "xray2ct.parts"  # from which diffusers imports the classes of the index
PIPELINE_FILE = "pipeline.py"
FILES = (INDEX, PIPELINE_FILE, "README.md")  # of a folder, beside its parts
PIPELINE_CODE = '''"""The class of this folder, for `custom_pipeline` of diffusers; xray2ct must be installed."""

import xray2ct.parts  # diffusers takes classes only from modules that are loaded
from xray2ct import XrayToCTPipeline
'''


def refuse_precision(options: dict) -> None:
    """Takes `torch_dtype` out of the options of `from_pretrained`; UserError for any but float32."""
    dtype = options.pop("torch_dtype", None)
    if dtype not in (None, torch.float32):
        raise UserError(
            f"torch_dtype={dtype}: leave it out; networks run in bfloat16 where the device computes in it, the linear "
            "prior needs float32"
        )


def is_folder(path: str | Path) -> bool:
    """Whether the path is a folder with a diffusers index."""
    return (Path(path) / INDEX).is_file()


def check_index(folder: str | Path, linked: bool = False) -> list[str]:
    """Names of the parts that a folder holds, with the scheduler; builds nothing.

    `linked` allows links, as in the cache of the hub. Raises a `UserError` for a missing index or file, a class
    outside the registry, or a link that leads out of the folder.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise UserError(f"{folder}: no {INDEX} in it; give a folder that python evaluation/export.py wrote")
    index = _index(folder)
    if index.get("_class_name") != "XrayToCTPipeline":
        raise UserError(f"{folder / INDEX}: class {index.get('_class_name')}, not XrayToCTPipeline")
    if not isinstance(index.get("protocol"), dict):
        raise UserError(f"{folder / INDEX}: no protocol of the data in it; export the checkpoint again")
    parts = [name for name in NETWORKS if name not in OPTIONAL or index.get(name) not in (None, [None, None])]
    for name in (*parts, "scheduler"):
        known = SCHEDULERS if name == "scheduler" else PARTS
        found = index.get(name)
        allowed = {(place, cls_name) for cls_name, cls in known.items() for place in (_library(cls), LIBRARY)}
        module, *rest = map(str, found) if isinstance(found, list) and found else (found,)
        module = str(module) if module == LIBRARY else str(module).removeprefix(INSTALLED)
        if (MOVED.get(module, module), *(RENAMED_CLASSES.get(name, name) for name in rest)) not in allowed:
            raise UserError(f"{folder / INDEX}: {name} is {found}, not one of {', '.join(known)}; nothing was run")
        files = ["scheduler_config.json"] if name == "scheduler" else ["config.json", WEIGHTS]
        for file in (_place(folder, name) / file for file in files):
            if not file.is_file():
                raise UserError(f"{file}: missing; copy the whole folder again")
            if not linked and not file.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{file}: a link that leads out of its folder; copy the file itself there")
            config = _json(file) if file.suffix == ".json" else {}
            if config.get("_class_name", found[1]) != found[1]:
                raise UserError(f"{file}: class {config['_class_name']}, but {INDEX} names {found[1]}")
    return [*parts, "scheduler"]


def read_part(folder: str | Path, name: str) -> nn.Module | SchedulerMixin:
    """One part of a folder that `check_index` has checked; a `UserError` if config, class and weights do not match."""
    place, cls_name = _place(Path(folder), name), _index(Path(folder))[name][1]
    cls_name = RENAMED_CLASSES.get(cls_name, cls_name)
    if name == "scheduler":
        return SCHEDULERS[cls_name].from_config(_json(place / "scheduler_config.json"))
    config = {key: value for key, value in _json(place / "config.json").items() if not key.startswith("_")}
    try:
        part = PARTS[cls_name](**upgrade_config(cls_name, config))
        part.load_state_dict(load_file(place / WEIGHTS))
    except SafetensorError as error:
        raise UserError(f"{place / WEIGHTS}: truncated or not a safetensors file; copy it again") from error
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{place}: config and weights do not make a {cls_name}: {str(error)[:300]}") from error
    return part.eval()


def read_settings(folder: str | Path) -> dict:
    """`protocol` of the data, and `sampling`, the arguments of `set_sampler`, if the index has them.

    Earlier versions wrote `antithetic` for DDPM, whose samples were independent: that entry is left out.
    """
    index = _json(Path(folder) / INDEX)
    found = {name: dict(index[name]) for name in ("protocol", "sampling") if isinstance(index.get(name), dict)}
    if found.get("sampling", {}).get("scheduler") == "DDPMScheduler":
        found["sampling"].pop("antithetic", None)
    return found


def _forget_paths(folder: str | Path) -> None:
    """Removes paths, which may hold personal names, from every config of a folder.

    diffusers writes its own path into each; `source` of an encoder keeps its last part, or a hub id.
    """
    for file in (Path(folder) / INDEX, *Path(folder).glob("*/*config.json")):
        written = _json(file)
        content = {key: value for key, value in written.items() if key != "_name_or_path"}
        if isinstance(content.get("source"), str):
            content["source"] = public_name(content["source"])
        if content != written:
            with atomic_path(file) as temporary:
                temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def make_portable(folder: str | Path) -> None:
    """Removes paths, and lets `diffusers.DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder)` open it.

    The index then names the parts by `xray2ct.parts`, which every installation has, and `pipeline.py` the
    class of the pipeline; this project reads the index only.
    """
    _forget_paths(folder)
    file = Path(folder) / INDEX
    content = {
        name: [LIBRARY, entry[1]] if isinstance(entry, list) and entry[1:] and entry[1] in PARTS else entry
        for name, entry in _json(file).items()
    }
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (Path(folder) / PIPELINE_FILE).write_text(PIPELINE_CODE, encoding="utf-8")


def _library(cls: type) -> str:
    """Module of a class as diffusers writes it into an index."""
    return "diffusers" if cls.__module__.startswith("diffusers.") else cls.__module__.removeprefix(INSTALLED)


def _index(folder: Path) -> dict:
    """The index, with the present names of parts."""
    return {RENAMED_PARTS.get(name, name): entry for name, entry in _json(folder / INDEX).items()}


def _place(folder: Path, name: str) -> Path:
    """Sub-folder of a part, under its old name in a folder of an older version."""
    old = next((old for old, new in RENAMED_PARTS.items() if new == name), name)
    return folder / (old if (folder / old).is_dir() else name)


def _json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({type(error).__name__}); copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a JSON object; copy it again")
    return content
