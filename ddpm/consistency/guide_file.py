"""Files of lung guides, each for the weights of one latent encoder."""

import json
import zlib
from pathlib import Path

import torch
from torch import nn

from common.checked_tensors import crc32, open_checked, save_tensors
from common.errors import UserError
from common.files import atomic_path
from ddpm.consistency.lung_guide import LungGuide


def fingerprint(latent_encoder: nn.Module) -> str:
    """Checksum of the weights of a latent encoder in bfloat16: equal for a checkpoint and its exports."""
    total = 0
    for name, value in sorted(latent_encoder.state_dict().items()):
        rounded = value.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16)
        total = zlib.crc32(f"{name} {tuple(value.shape)} {crc32(rounded)}".encode(), total)
    return f"{total:08x}"


def save_guide(guide: LungGuide, path: str | Path, suits: str, notes: dict) -> None:
    """Writes a guide for the latent encoder of the fingerprint `suits`; `notes` are plain JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"latent_shape": list(guide.latent_shape), "suits": suits, **notes}
    with atomic_path(path) as temporary:
        save_tensors({name: value.cpu().contiguous() for name, value in guide.state_dict().items()}, temporary,
                     {"lung_guide": json.dumps(header)})  # fmt: skip


def load_guide(path: str | Path) -> tuple[LungGuide, str]:
    """A guide and the fingerprint that it suits; UserError if the file is missing, damaged or of another kind."""
    with open_checked(path) as file:
        try:
            header = json.loads(file.file.metadata()["lung_guide"])
            side = max(file.shape("deviation")[1:])
            guide, suits = LungGuide(header["latent_shape"], side), str(header["suits"])
            guide.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: holds no lung guide of this version ({str(error)[:100]}); "
                            "make one with python train/fit_parts.py parts=[lung_guide]") from error  # fmt: skip
    return guide.eval(), suits
