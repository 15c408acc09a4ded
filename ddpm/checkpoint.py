"""Models from files, and the only place that does it: weights and plain JSON in, never code.

A training checkpoint (`.ckpt`) is read with torch's weights-only loader; an exported model (`.safetensors`) holds its
header as JSON metadata. Component names come from `ddpm.registry`, so a file cannot name anything else.
"""

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from torch import nn

from dataset.checksums import save_tensors
from dataset.errors import UserError
from ddpm.archive import DAMAGED, expect_stored
from ddpm.folders import is_folder
from ddpm.header import check_header, check_size
from ddpm.inherits import inherits
from ddpm.lora import adapter_names, merge_lora, restore_lora
from ddpm.pipeline import XrayToCTPipeline
from ddpm.registry import CLASSIFIERS, PARTS, SCHEDULERS
from vq_gan_3d import VQGAN3D

FORMAT = 1
REGISTRY = {"VQGAN3D": VQGAN3D, **PARTS, **SCHEDULERS, **CLASSIFIERS}
TRAINED = ("denoiser", "xray_encoder", "lift")  # components that adapters may lie in
GUESSES = ("prior", "pose_guess")  # fitted in closed form
OPTIONAL = ("lift", *GUESSES)  # components that a model may do without
TRAIN_COMMAND = {
    "vqgan": "python train/train_vqgan.py",
    "ddpm": "python train/train_ddpm.py",
    "classifier": "python train/train_classifier.py",
}


def read(path: str | Path) -> tuple[dict, dict[str, torch.Tensor], dict]:
    """Header, weights and the rest of a checkpoint or exported model.

    Raises:
        UserError: for a missing, truncated or foreign file, or one that holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train one with python train/train_vqgan.py or train_ddpm.py")
    if path.suffix == ".safetensors":
        header, weights, rest = *_read_safetensors(path), {}
    else:
        rest = _read_torch(path)
        header, weights = rest.get("header"), rest.get("state_dict")
    if not isinstance(header, dict) or not isinstance(weights, dict) or "components" not in header:
        raise UserError(f"{path}: not a checkpoint of this project (it has no header); give one that train/ wrote")
    check_header(path, header, FORMAT)
    return header, weights, rest


def load_vqgan(path: str | Path) -> VQGAN3D:
    """The autoencoder of a VQ-GAN checkpoint, on the CPU."""
    header, weights, _ = read(path)
    _expect_stage(path, header, "vqgan")
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
    _expect_stage(path, header, "ddpm")
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
    names = [name for name in (*TRAINED, *GUESSES, "latent_encoder") if name not in absent]
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


def save_adapter(path: str | Path, weights: dict[str, torch.Tensor], lora: dict, base: dict, protocol: dict) -> Path:
    """Writes adapters alone, as safetensors.

    Args:
        weights: of the adapters, by their names in the training module.
        lora: what `ddpm.lora.add_lora` returned.
        base: `file`, the name, and `sha256` of the checkpoint that they belong to.
    """
    plain = {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}
    header = {"stage": "adapter", "components": {}, "lora": lora, "base": base, "protocol": protocol}
    return _write_safetensors(path, plain, complete(header))


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


def export_pipeline(pipeline: XrayToCTPipeline, path: str | Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Writes a pipeline as one safetensors file with its header in the metadata; statistics stay in float32."""
    weights = {}
    for name, module in parts_of(pipeline).items():
        for key, value in module.state_dict().items():
            narrow = value.is_floating_point() and not key.startswith("latent_")
            weights[f"{name}.{key}"] = (value.to(dtype) if narrow else value).cpu().contiguous()
    return _write_safetensors(path, weights, header_of(pipeline))


def parts_of(pipeline: XrayToCTPipeline) -> dict[str, nn.Module]:
    """The networks of a pipeline by name."""
    parts = {name: getattr(pipeline, name) for name in (*TRAINED, *GUESSES, "latent_encoder")}
    return {name: part for name, part in parts.items() if part is not None}


def header_of(pipeline: XrayToCTPipeline) -> dict:
    """The header that rebuilds a pipeline: plain JSON."""
    components = {name: component(part, f"{name}.") for name, part in parts_of(pipeline).items()}
    components["scheduler"] = component(pipeline.training_scheduler)
    return complete({"stage": "ddpm", "components": components, "protocol": pipeline.protocol})


def complete(header: dict) -> dict:
    """A header with its format version and what it inherits."""
    return {"format": FORMAT, **header, "inherits": inherits(header)}


def load_classifier(path: str | Path) -> tuple[nn.Module, dict]:
    """A classifier, on the CPU, and its protocol, whose `input` says of what: `ct`, `xray` or `generated`."""
    header, weights, _ = read(path)
    _expect_stage(path, header, "classifier")
    return _build(path, header, "classifier", weights).eval(), header.get("protocol", {})


def export_classifier(classifier: nn.Module, path: str | Path, protocol: dict) -> Path:
    """Writes a classifier as one safetensors file; `protocol` holds at least the HU `window` of its volumes."""
    weights = {f"classifier.{key}": value.cpu().contiguous() for key, value in classifier.state_dict().items()}
    components = {"classifier": component(classifier, "classifier.")}
    header = {"stage": "classifier", "components": components, "protocol": protocol}
    return _write_safetensors(path, weights, complete(header))


def component(module, prefix: str = "") -> dict:
    """The entry of a component in a header: class name, constructor arguments, prefix of its weights."""
    config = {k: v for k, v in dict(module.config).items() if not k.startswith("_")}
    name = type(module).__name__.removeprefix("FSDP")  # the class of a sharded part is made on the fly
    return {"class": name, "config": json.loads(json.dumps(config)), "prefix": prefix}


def sha256(path: str | Path) -> str:
    """Hash of a file, for the protocol of a result; of a folder, that of its files' names and hashes."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        named = "".join(f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files)
        return hashlib.sha256(named.encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _write_safetensors(path: str | Path, weights: dict[str, torch.Tensor], header: dict) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    save_tensors(weights, beside, {"header": json.dumps(header)})
    os.replace(beside, path)
    return path


def _expect_stage(path, header: dict, stage: str) -> None:
    found = header.get("stage")
    if found != stage:
        raise UserError(
            f"{path}: a checkpoint of the stage {found!r} where one of {stage!r} is needed ({TRAIN_COMMAND[stage]})"
        )


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


def _read_torch(path: Path) -> dict:
    try:
        expect_stored(path)
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: {error}; nothing in it was read. Give a checkpoint that train/ wrote") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds objects beyond weights and plain data, or is no checkpoint; nothing in it was run. "
            "Give a checkpoint that train/ wrote"
        ) from error
    except DAMAGED as error:
        raise UserError(f"{path}: truncated or not a checkpoint ({type(error).__name__}); copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of this project; give one that train/ wrote")
    return content


def _read_safetensors(path: Path) -> tuple[dict | None, dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
        header = json.loads(metadata["header"]) if "header" in metadata else None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file; copy it again") from error
    return header, {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
