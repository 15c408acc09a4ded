"""Reads a checkpoint without executing code: a training checkpoint (`.ckpt`) with torch's weights-only loader, an
exported model (`.safetensors`) with its header as JSON metadata.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.errors import UserError
from ddpm.checkpoint.build import apply_adapters, build_part, build_pipeline, find_base
from ddpm.checkpoint.header import check_header
from ddpm.checkpoint.upgrade import upgrade
from ddpm.latent.vqgan import VQGANLatents
from ddpm.pipeline import XrayToCTPipeline
from ddpm.weights.safe_load import read_weights
from vq_gan_3d import VQGAN3D


@dataclass(frozen=True)
class Checkpoint:
    """Checked header and weights of a file, and the models that they rebuild, on the CPU."""

    path: Path
    header: dict  # plain JSON (`ddpm.checkpoint.header`)
    weights: dict[str, Tensor]  # by name; of an exported model or of adapters in float32
    averages: dict[str, Tensor]  # EMA weights by name; empty if the file has none
    latents: dict[str, Tensor]  # of the latent encoder, which a training checkpoint stores separately

    @property
    def stage(self) -> str | None:
        """`vqgan`, `ddpm`, `adapter` or `classifier`."""
        return self.header.get("stage")

    @property
    def protocol(self) -> dict:
        """How the training data were made."""
        return self.header.get("protocol", {})

    def pipeline(self) -> XrayToCTPipeline:
        """The pipeline, of a training checkpoint with the averaged (EMA) weights; adapters are merged into their base.

        Raises a `UserError` for another stage, parts that do not fit, or adapters without their base.
        """
        if self.stage == "adapter":
            pipeline = read(find_base(self.path, self.header.get("base", {}))).pipeline()
            return apply_adapters(pipeline, self.header, self.weights, self.path)
        self._expect("ddpm")
        return build_pipeline(self.header, {**self.weights, **self.averages, **self.latents}, self.path)

    def vqgan(self) -> VQGAN3D:
        """The autoencoder."""
        return self._part("vqgan")

    def latent_encoder(self) -> VQGANLatents:
        """The autoencoder as latent encoder, without measured statistics."""
        vqgan = self.vqgan()
        encoder = VQGANLatents({k: v for k, v in dict(vqgan.config).items() if not k.startswith("_")})
        encoder.network.load_state_dict(vqgan.state_dict())
        encoder.found_at = str(self.path)
        encoder.trained_on = {f"model.vqgan_ckpt={self.path}": self.protocol}
        return encoder

    def classifier(self) -> nn.Module:
        """The classifier of `ddpm.classifiers`."""
        return self._part("classifier")

    def _part(self, stage: str) -> nn.Module:
        self._expect(stage)
        return build_part(self.path, self.header, stage, self.weights)

    def _expect(self, stage: str) -> None:
        if self.stage != stage:
            raise UserError(
                f"{self.path}: a checkpoint of the stage {self.stage!r} where one of {stage!r} is needed "
                f"(python train/train_{stage}.py)"
            )


def read(path: str | Path) -> Checkpoint:
    """A training checkpoint or exported model, with the present names of its parts.

    Raises a `UserError` for a missing, truncated or foreign file, or one that holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train one with python train/train_vqgan.py or train_ddpm.py")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    else:
        try:
            content = dict(read_weights(path))
        except ValueError as error:
            raise UserError(f"{path}: {error}; no code in it was run. Give a checkpoint that train/ wrote") from error
    header, weights = content.get("header"), content.get("state_dict")
    if not isinstance(header, dict) or not isinstance(weights, dict) or "components" not in header:
        raise UserError(f"{path}: not a checkpoint of this project (it has no header); give one that train/ wrote")
    check_header(path, header)
    content = upgrade(content)
    averages, latents = content.get("ema", {}), content.get("latent_encoder", {})
    if not isinstance(averages, dict) or not isinstance(latents, dict):
        raise UserError(f"{path}: its averaged weights or its latent encoder are damaged; copy it again")
    return Checkpoint(path, content["header"], content["state_dict"], averages, latents)


def _read_safetensors(path: Path) -> dict:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
        header = json.loads(metadata["header"]) if "header" in metadata else None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file; copy it again") from error
    return {"header": header, "state_dict": {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}}
