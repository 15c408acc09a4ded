"""Models from files, and the only place that does it: weights and plain JSON in, never code.

A training checkpoint (`.ckpt`) is read with torch's weights-only loader; an exported model (`.safetensors`) holds its
header as JSON metadata. Component names come from `ddpm.registry`, so a file cannot name anything else.
"""

from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn

from common.errors import UserError
from common.files import sha256
from ddpm.checkpoint.header import check_size
from ddpm.checkpoint.read import expect_stage, read
from ddpm.lora import adapter_names, merge_lora, restore_lora
from ddpm.pipeline import XrayToCTPipeline
from ddpm.pipeline_folder import is_folder
from ddpm.registry import CLASSIFIERS, PARTS, SCHEDULERS
from vq_gan_3d import VQGAN3D

REGISTRY = {"VQGAN3D": VQGAN3D, **PARTS, **SCHEDULERS, **CLASSIFIERS}
TRAINED = ("denoiser", "xray_encoder", "lift")  # components that adapters may lie in
FITTED = ("prior", "pose_regressor")  # fitted in closed form
OPTIONAL = ("lift", *FITTED)  # components that a model may do without


def load_vqgan(path: str | Path) -> VQGAN3D:
    """The autoencoder of a VQ-GAN checkpoint, on the CPU."""
    header, weights, _ = read(path)
    expect_stage(path, header, "vqgan")
    return _build(path, header, "vqgan", weights).eval()


def load_pipeline(path: str | Path, device: str | torch.device = "cpu") -> XrayToCTPipeline:
    """Everything that turns an X-ray into a volume; of a training checkpoint the averaged (EMA) weights are taken.

    Adapters are merged into the weights beneath them. A file of adapters alone is put onto its base, known by
    its hash, which lies beside them or where the config of their run says.
    """
    if is_folder(path):  # of diffusers
        return XrayToCTPipeline.from_pretrained(path).to(device)
    header, weights, rest = read(path)
    if header.get("stage") == "adapter":
        return _load_adapter(path, header, weights).to(device)
    expect_stage(path, header, "ddpm")
    return build_pipeline(header, {**weights, **rest.get("ema", {}), **rest.get("latent_encoder", {})}, path).to(
        device
    )


def build_pipeline(
    header: dict, weights: dict[str, torch.Tensor] | None = None, path: str | Path = "header"
) -> XrayToCTPipeline:
    """The pipeline of a header, with the weights under its names; None leaves them as they are built.

    Raises:
        UserError: naming `path`, for parts that are not in the registry or do not fit their weights.
    """
    absent = {name for name in OPTIONAL if name not in header["components"]}
    names = [name for name in (*TRAINED, *FITTED, "latent_encoder") if name not in absent]
    modules = {name: _construct(path, header, name, weights) for name in names}
    adapted = nn.ModuleDict({name: modules[name] for name in TRAINED if name in modules})
    if header.get("lora"):
        _restore_lora(path, header, adapted)
    if weights is not None:
        for name, module in modules.items():
            _fill(path, header, name, module, weights)
    merge_lora(adapted)
    entry = _component(path, header, "scheduler")
    modules = {**dict.fromkeys(absent), **modules, "scheduler": REGISTRY[entry["class"]].from_config(entry["config"])}
    return XrayToCTPipeline(**modules, protocol=header["protocol"])


def trained_parts(pipeline: XrayToCTPipeline) -> dict[str, nn.Module]:
    """The parts of a pipeline that training changes, by name."""
    parts = {name: getattr(pipeline, name, None) for name in TRAINED}
    return {name: part for name, part in parts.items() if part is not None}


def _load_adapter(path: str | Path, header: dict, weights: dict[str, torch.Tensor]) -> XrayToCTPipeline:
    pipeline = load_pipeline(_find_base(Path(path), header.get("base", {})))
    parts = nn.ModuleDict(trained_parts(pipeline))
    _restore_lora(path, header, parts)
    if adapter_names(parts) != weights.keys():
        odd = sorted(adapter_names(parts) ^ weights.keys())[0]
        raise UserError(f"{path}: adapters do not fit their base: {odd} is in one and not in the other")
    try:
        parts.load_state_dict({**parts.state_dict(), **weights})
    except RuntimeError as error:
        raise UserError(f"{path}: adapters do not fit their base: {str(error)[:300]}") from error
    merge_lora(parts)
    pipeline.register_to_config(protocol=header["protocol"])
    return pipeline


def _find_base(path: Path, base: dict) -> Path:
    """The file of this hash: the one that the run's own config names, or one beside the adapters."""
    named, config = [], path.parent.parent / ".hydra" / "config.yaml"
    if config.is_file():
        named = [Path(str(OmegaConf.load(config).get("model", {}).get("init_from")))]
    beside = (file for kind in ("*.ckpt", "*.safetensors") for file in sorted(path.parent.glob(kind)))
    for candidate in (*named, *beside):
        if candidate != path and candidate.is_file() and sha256(candidate) == base.get("sha256"):
            return candidate
    raise UserError(
        f"{path}: adapters without their base: no file with SHA-256 {str(base.get('sha256'))[:16]}… beside them. Copy "
        f"{base.get('file')} of the first run there, under any name, or generate from the last.ckpt of the run, which "
        "holds both"
    )


def _restore_lora(path: str | Path, header: dict, parts: nn.ModuleDict) -> None:
    try:
        restore_lora(parts, **header["lora"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its adapters do not fit its model: {str(error)[:200]}") from error


def load_classifier(path: str | Path) -> tuple[nn.Module, dict]:
    """A classifier, on the CPU, and its protocol, whose `input` says of what: `ct`, `xray` or `generated`."""
    header, weights, _ = read(path)
    expect_stage(path, header, "classifier")
    return _build(path, header, "classifier", weights).eval(), header.get("protocol", {})


def _component(path, header: dict, name: str) -> dict:
    entry = header["components"].get(name)
    if not isinstance(entry, dict) or entry.get("class") not in REGISTRY:
        found = entry.get("class") if isinstance(entry, dict) else entry
        raise UserError(f"{path}: component {name} is {found!r}, not one of {', '.join(REGISTRY)}; nothing was run")
    return entry


def _build(path, header: dict, name: str, weights: dict):
    module = _construct(path, header, name, weights)
    _fill(path, header, name, module, weights)
    return module


def _construct(path, header: dict, name: str, weights: dict | None = None):
    entry = _component(path, header, name)
    if weights is not None:
        prefix = entry.get("prefix", "")
        own = [value for key, value in weights.items() if key.startswith(prefix)]
        check_size(path, name, REGISTRY[entry["class"]], entry["config"], sum(v.numel() * 4 for v in own))
    try:
        return REGISTRY[entry["class"]](**entry["config"])
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: component {name} cannot be built: {str(error)[:300]}") from error
    except ImportError as error:
        raise UserError(f"{path}: component {name} needs a package: {error}; pip install it") from error


def _fill(path, header: dict, name: str, module: nn.Module, weights: dict) -> None:
    try:
        prefix = header["components"][name]["prefix"]
        module.load_state_dict({key[len(prefix) :]: v for key, v in weights.items() if key.startswith(prefix)})
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: component {name} does not fit its weights: {str(error)[:300]}") from error
