"""Files of adapters alone (LoRA): the base that they belong to, and putting them onto it."""

from pathlib import Path

from omegaconf import OmegaConf
from torch import Tensor, nn

from common.errors import UserError
from common.files import sha256
from ddpm.checkpoint.build import add_adapters
from ddpm.lora import adapter_names, merge_lora
from ddpm.pipeline import XrayToCTPipeline


def find_base(path: Path, base: dict) -> Path:
    """The file with the SHA-256 of `base`: `model.init_from` of the run's config, or a file beside the adapters.

    Raises:
        UserError: where neither has this hash.
    """
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


def apply_adapters(pipeline: XrayToCTPipeline, header: dict, weights: dict[str, Tensor], path: Path) -> None:
    """Merges trained adapters into the base pipeline, which then has their protocol.

    Raises:
        UserError: for adapters of another model.
    """
    parts = nn.ModuleDict(pipeline.trained)
    add_adapters(path, header, parts)
    if adapter_names(parts) != weights.keys():
        odd = sorted(adapter_names(parts) ^ weights.keys())[0]
        raise UserError(f"{path}: adapters do not fit their base: {odd} is in one and not in the other")
    try:
        parts.load_state_dict({**parts.state_dict(), **weights})
    except RuntimeError as error:
        raise UserError(f"{path}: adapters do not fit their base: {str(error)[:300]}") from error
    merge_lora(parts)
    pipeline.register_to_config(protocol=header["protocol"])
