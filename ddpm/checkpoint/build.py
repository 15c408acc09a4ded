"""Models from a checked header and its weights; the registry holds every class that a header may name."""

from pathlib import Path

from torch import Tensor, nn

from common.errors import UserError
from ddpm.checkpoint.header import check_size
from ddpm.lora import merge_lora, restore_lora
from ddpm.pipeline import XrayToCTPipeline
from ddpm.registry import CLASSES, NETWORKS, OPTIONAL, TRAINED


def build_pipeline(
    header: dict, weights: dict[str, Tensor] | None = None, path: str | Path = "header"
) -> XrayToCTPipeline:
    """The pipeline of a header, with adapters merged into the weights beneath them.

    Args:
        weights: by the names of the header's prefixes; None leaves the parts as they are built.
        path: for messages.

    Raises:
        UserError: for a part that is not in the registry or does not fit its weights.
    """
    absent = {name for name in OPTIONAL if name not in header["components"]}
    modules = {name: _construct(path, header, name, weights) for name in NETWORKS if name not in absent}
    adapted = nn.ModuleDict({name: modules[name] for name in TRAINED if name in modules})
    if header.get("lora"):
        add_adapters(path, header, adapted)
    if weights is not None:
        for name, module in modules.items():
            _fill(path, header, name, module, weights)
    merge_lora(adapted)
    entry = _component(path, header, "scheduler")
    scheduler = CLASSES[entry["class"]].from_config(entry["config"])
    return XrayToCTPipeline(**dict.fromkeys(absent), **modules, scheduler=scheduler, protocol=header["protocol"])


def build_part(path: str | Path, header: dict, name: str, weights: dict[str, Tensor]) -> nn.Module:
    """One part of a header with its weights, on the CPU and in eval mode.

    Raises:
        UserError: for a part that is not in the registry or does not fit its weights.
    """
    module = _construct(path, header, name, weights)
    _fill(path, header, name, module, weights)
    return module.eval()


def add_adapters(path: str | Path, header: dict, parts: nn.ModuleDict) -> None:
    """Puts untrained adapters into `parts`, as the header's `lora` describes them.

    Raises:
        UserError: for adapters that do not fit the parts.
    """
    try:
        restore_lora(parts, **header["lora"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its adapters do not fit its model: {str(error)[:200]}") from error


def _component(path: str | Path, header: dict, name: str) -> dict:
    entry = header["components"].get(name)
    if not isinstance(entry, dict) or entry.get("class") not in CLASSES:
        found = entry.get("class") if isinstance(entry, dict) else entry
        raise UserError(f"{path}: component {name} is {found!r}, not one of {', '.join(CLASSES)}; nothing was run")
    return entry


def _construct(path: str | Path, header: dict, name: str, weights: dict[str, Tensor] | None):
    entry = _component(path, header, name)
    cls, config = CLASSES[entry["class"]], entry["config"]
    if weights is not None:
        prefix = entry.get("prefix", "")
        check_size(path, name, cls, config, sum(v.numel() * 4 for k, v in weights.items() if k.startswith(prefix)))
    try:
        return cls(**config)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: component {name} cannot be built: {str(error)[:300]}") from error
    except ImportError as error:
        raise UserError(f"{path}: component {name} needs a package: {error}; pip install it") from error


def _fill(path: str | Path, header: dict, name: str, module: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        prefix = header["components"][name]["prefix"]
        module.load_state_dict({key[len(prefix) :]: v for key, v in weights.items() if key.startswith(prefix)})
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: component {name} does not fit its weights: {str(error)[:300]}") from error
