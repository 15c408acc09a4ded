"""Writes checkpoints and exported weights."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from common.checked_tensors import save_tensors
from common.errors import UserError
from common.files import ROOT, atomic_path
from ddpm.checkpoint.header import FORMAT
from ddpm.pipeline import XrayToCTPipeline
from ddpm.weights.licences import inherits

LARGE = 10_000  # numbers of an array that is stored in the precision of the weights


def save_adapter(
    path: str | Path,
    weights: dict[str, torch.Tensor],
    lora: dict,
    base: dict,
    protocol: dict,
    measured: dict[str, nn.Module] | None = None,
) -> Path:
    """Writes adapters in float32, with the parts that their run has measured, as safetensors.

    `weights` have their names in the training module; `lora` is the result of `ddpm.lora.add_lora`; `base` holds
    `file`, the name, and `sha256` of the base checkpoint.
    """
    plain, components = {name: value.detach().float() for name, value in weights.items()}, {}
    for name, part in (measured or {}).items():
        components[name] = component(part, f"{name}.")
        plain |= part.state_dict(prefix=f"{name}.")
    header = {"stage": "adapter", "components": components, "lora": lora, "base": base, "protocol": protocol}
    return _write_safetensors(path, plain, complete(header))


def export_pipeline(pipeline: XrayToCTPipeline, path: str | Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Writes a pipeline as one safetensors file with its header; statistics and block PCA stay in float32."""
    weights = {}
    for name, module in pipeline.networks.items():
        for key, value in module.state_dict().items():
            # components of block PCA in bfloat16 would add 1 HU of the same pattern to every block
            narrow = value.is_floating_point() and not key.startswith("latent_") and ".pca." not in f".{key}"
            weights[f"{name}.{key}"] = value.to(dtype) if narrow else value
    return _write_safetensors(path, weights, header_of(pipeline))


def output_file(given: str | None, checkpoint: Path, ending: str, overwrite: bool) -> Path:
    """The file for a changed model: `given`, or `<checkpoint>_<ending>.safetensors` beside its checkpoint.

    UserError for another kind of file, one that exists without `overwrite`, and none for included weights, in whose
    folder nothing is written by itself.
    """
    if given is None and checkpoint.resolve().is_relative_to(ROOT / "assets"):
        raise UserError(f"checkpoint={checkpoint}: included weights; name the new file with output=<file>.safetensors")
    output = Path(given or checkpoint.with_name(f"{checkpoint.stem}_{ending}.safetensors"))
    if output.suffix != ".safetensors":
        raise UserError(f"output={output}: give a file that ends in .safetensors")
    if output.exists() and not overwrite:
        raise UserError(f"output={output}: exists already; overwrite=true replaces it")
    return output


def add_parts(
    path: Path, pipeline: XrayToCTPipeline, parts: dict[str, nn.Module], output: Path, protocol: dict | None = None
) -> Path:
    """Writes the model of `path`, whose pipeline is given, with new parts; tensors of other parts keep their bits.

    Weights of a training checkpoint, a folder or adapters are written in float32. Large arrays of a part have the
    precision of the largest tensor of the file. `protocol` replaces that of the model; None keeps it.
    """
    header, weights = _read_safetensors(path) if path.suffix == ".safetensors" else ({}, {})
    if header.get("stage") != "ddpm":
        header, weights = _read_safetensors(export_pipeline(pipeline, output, torch.float32))
    dtype = max(weights.values(), key=torch.numel).dtype
    header["protocol"] = header["protocol"] if protocol is None else protocol
    for name, part in parts.items():
        header["components"][name] = component(part, f"{name}.")
        for key, value in part.state_dict().items():
            large = value.is_floating_point() and value.numel() > LARGE
            weights[f"{name}.{key}"] = value.to(dtype) if large else value
    return _write_safetensors(output, weights, header)


def header_of(pipeline: XrayToCTPipeline) -> dict:
    """The header that rebuilds a pipeline, as plain JSON."""
    components = {name: component(part, f"{name}.") for name, part in pipeline.networks.items()}
    components["scheduler"] = component(pipeline.training_scheduler)
    return complete({"stage": "ddpm", "components": components, "protocol": pipeline.protocol})


def complete(header: dict) -> dict:
    """A header with its format version and its inherited licences."""
    return {"format": FORMAT, **header, "inherits": inherits(header)}


def export_classifier(classifier: nn.Module, path: str | Path, protocol: dict) -> Path:
    """Writes a classifier as one safetensors file; `protocol` holds at least the HU `window` of its volumes."""
    weights = {f"classifier.{key}": value for key, value in classifier.state_dict().items()}
    components = {"classifier": component(classifier, "classifier.")}
    header = {"stage": "classifier", "components": components, "protocol": protocol}
    return _write_safetensors(path, weights, complete(header))


def component(module, prefix: str = "") -> dict:
    """Entry of a component in a header: class name, constructor arguments, prefix of its weights."""
    config = {k: v for k, v in dict(module.config).items() if not k.startswith("_")}
    name = type(module).__name__.removeprefix("FSDP")  # FSDP derives the class of a sharded part
    return {"class": name, "config": json.loads(json.dumps(config)), "prefix": prefix}


def _read_safetensors(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
        return json.loads(file.metadata()["header"]), weights


def _write_safetensors(path: str | Path, weights: dict[str, torch.Tensor], header: dict) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.cpu().contiguous() for name, value in weights.items()}
    with atomic_path(path) as temporary:
        save_tensors(weights, temporary, {"header": json.dumps(header)})
    return path
