"""Models from a checked header and its weights; the registry holds every class that a header may name."""

from pathlib import Path

from omegaconf import OmegaConf
from torch import Tensor, nn

from common.errors import UserError
from common.files import sha256, visible
from ddpm.checkpoint.header import check_size
from ddpm.lora import adapter_names, merge_lora, restore_lora
from ddpm.pipeline import XrayToCTPipeline
from ddpm.registry import CLASSES, MEASURED, NETWORKS, OPTIONAL, TRAINED


def build_pipeline(
    header: dict, weights: dict[str, Tensor] | None = None, path: str | Path = "header"
) -> XrayToCTPipeline:
    """The pipeline of a header, with its adapters merged; `weights=None` leaves the parts as constructed.

    Raises a `UserError` that names `path` for a part that is not in the registry or does not fit its weights.
    """
    absent = {name for name in OPTIONAL if name not in header["components"]}
    modules = {name: _construct(path, header, name, weights) for name in NETWORKS if name not in absent}
    adapted = nn.ModuleDict({name: modules[name] for name in TRAINED if name in modules})
    if header.get("lora"):
        _add_adapters(path, header, adapted)
    if weights is not None:
        for name, module in modules.items():
            _fill(path, header, name, module, weights)
    if header.get("lora"):
        merge_lora(adapted)
    entry = _component(path, header, "scheduler")
    scheduler = CLASSES[entry["class"]].from_config(entry["config"])
    return XrayToCTPipeline(**dict.fromkeys(absent), **modules, scheduler=scheduler, protocol=header["protocol"])


def build_part(path: str | Path, header: dict, name: str, weights: dict[str, Tensor]) -> nn.Module:
    """One part of a header with its weights, in eval mode; raises as `build_pipeline`."""
    module = _construct(path, header, name, weights)
    _fill(path, header, name, module, weights)
    return module.eval()


def find_base(path: Path, base: dict) -> Path:
    """The base checkpoint of adapters, by its SHA-256: `model.init_from` of their run, or a file in their folder."""
    named, config = [], path.parent.parent / ".hydra" / "config.yaml"
    if config.is_file():
        named = [Path(str(OmegaConf.load(config).get("model", {}).get("init_from")))]
    beside = (file for kind in ("*.ckpt", "*.safetensors") for file in visible(path.parent.glob(kind)))
    for candidate in (*named, *beside):
        if candidate != path and candidate.is_file() and sha256(candidate) == base.get("sha256"):
            return candidate
    raise UserError(
        f"{path}: adapters without their base: no file with SHA-256 {str(base.get('sha256'))[:16]}… beside them. Copy "
        f"{base.get('file')} of the first run there, under any name, or generate from the last.ckpt of the run, which "
        "holds both"
    )


def apply_adapters(
    pipeline: XrayToCTPipeline, header: dict, weights: dict[str, Tensor], path: Path
) -> XrayToCTPipeline:
    """The base pipeline with merged adapters, and with the protocol and the measured parts of their run.

    It keeps the measured parts of the base for a file of an earlier version, which holds none, and has no consistency,
    which was fitted to predictions of the base. Raises a `UserError` for adapters that do not fit their base.
    """
    parts = nn.ModuleDict(pipeline.trained)
    _add_adapters(path, header, parts)
    stored = [name for name in MEASURED if name in header["components"]]
    measured = {name: build_part(path, header, name, weights) for name in stored}
    adapters = {key: v for key, v in weights.items() if key.partition(".")[0] not in measured}
    if odd := sorted(adapter_names(parts) ^ adapters.keys()):
        raise UserError(f"{path}: adapters do not fit their base: {odd[0]} is in one and not in the other")
    try:
        parts.load_state_dict({**parts.state_dict(), **adapters})
    except RuntimeError as error:
        raise UserError(f"{path}: adapters do not fit their base: {str(error)[:300]}") from error
    merge_lora(parts)
    kept = {name: part for name, part in pipeline.networks.items() if not measured or name not in MEASURED}
    networks = {**dict.fromkeys(OPTIONAL), **kept, **measured, "consistency": None}
    return XrayToCTPipeline(**networks, scheduler=pipeline.training_scheduler, protocol=header["protocol"])


def _add_adapters(path: str | Path, header: dict, parts: nn.ModuleDict) -> None:
    try:
        restore_lora(parts, **header["lora"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its adapters do not fit its model: {str(error)[:200]}") from error


def _component(path: str | Path, header: dict, name: str) -> dict:
    entry = header["components"].get(name)
    found = entry.get("class") if isinstance(entry, dict) else entry
    if not isinstance(entry, dict) or found not in CLASSES:
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
