"""Models from files, and the only place that does it: weights and plain JSON in, never code.

A training checkpoint (`.ckpt`) is read with torch's weights-only loader; an exported model (`.safetensors`) holds its
header as JSON metadata. Component names come from the registry below, so a file cannot name anything else.
"""

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dataset.errors import UserError
from ddpm.latent import SliceVAELatents, VQGANLatents
from ddpm.lifting import RayLift
from ddpm.pipeline import XrayToCTPipeline
from ddpm.unet import UNet3D
from ddpm.xray_encoder import CNNXrayEncoder
from vq_gan_3d import VQGAN3D

FORMAT = 1
REGISTRY = {
    cls.__name__: cls
    for cls in (VQGAN3D, UNet3D, RayLift, CNNXrayEncoder, VQGANLatents, SliceVAELatents, DDPMScheduler)
}
TRAIN_COMMAND = {"vqgan": "python train/train_vqgan.py", "ddpm": "python train/train_ddpm.py"}


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
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: checkpoint format {header.get('format')}, this version reads {FORMAT}")
    return header, weights, rest


def load_vqgan(path: str | Path) -> VQGAN3D:
    """The autoencoder of a VQ-GAN checkpoint, on the CPU."""
    header, weights, _ = read(path)
    _expect_stage(path, header, "vqgan")
    return _build(path, header, "vqgan", weights).eval()


def load_pipeline(path: str | Path, device: str | torch.device = "cpu") -> XrayToCTPipeline:
    """Everything that turns an X-ray into a volume; of a training checkpoint the averaged (EMA) weights are taken."""
    header, weights, rest = read(path)
    _expect_stage(path, header, "ddpm")
    weights = {**weights, **rest.get("ema", {}), **rest.get("latent_encoder", {})}
    names = ("denoiser", "xray_encoder", "lift", "latent_encoder")
    modules = {name: _build(path, header, name, weights) for name in names}
    scheduler = DDPMScheduler.from_config(_component(path, header, "scheduler")["config"])
    return XrayToCTPipeline(**modules, scheduler=scheduler, protocol=header["protocol"]).to(device)


def export_pipeline(pipeline: XrayToCTPipeline, path: str | Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Writes a pipeline as one safetensors file with its header in the metadata; statistics stay in float32."""
    components, weights = {}, {}
    for name in ("denoiser", "xray_encoder", "lift", "latent_encoder"):
        module = getattr(pipeline, name)
        components[name] = component(module, f"{name}.")
        for key, value in module.state_dict().items():
            narrow = value.is_floating_point() and not key.startswith("latent_")
            weights[f"{name}.{key}"] = (value.to(dtype) if narrow else value).cpu().contiguous()
    components["scheduler"] = component(pipeline.training_scheduler)
    header = {"format": FORMAT, "stage": "ddpm", "components": components, "protocol": pipeline.protocol}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    save_file(weights, beside, metadata={"header": json.dumps(header)})
    os.replace(beside, path)
    return path


def component(module, prefix: str = "") -> dict:
    """The entry of a component in a header: class name, constructor arguments, prefix of its weights."""
    config = {k: v for k, v in dict(module.config).items() if not k.startswith("_")}
    return {"class": type(module).__name__, "config": json.loads(json.dumps(config)), "prefix": prefix}


def sha256(path: str | Path) -> str:
    """Hash of a file, for the protocol of a result."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


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
    entry = _component(path, header, name)
    try:
        module = REGISTRY[entry["class"]](**entry["config"])
        prefix = entry["prefix"]
        own = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
        module.load_state_dict(own)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: component {name} does not fit its weights: {str(error)[:300]}") from error
    return module


def _read_torch(path: Path) -> dict:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds objects beyond weights and plain data, or is no checkpoint; nothing in it was run. "
            "Give a checkpoint that train/ wrote"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
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
