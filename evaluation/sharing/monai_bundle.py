"""Writes a generator as a MONAI bundle: metadata, inference config and weights for `monai.bundle`.

The config refers to the two functions and the class of this file by `xray2ct.bundle`, so a bundle needs the package
xray2ct. The weights are a state dict; the header that rebuilds the networks is JSON in the config.
"""

import json
import platform
from pathlib import Path

import monai
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.errors import UserError
from ddpm.checkpoint.build import build_pipeline
from ddpm.checkpoint.write import header_of
from ddpm.conditioning.views import serves_fewer_views
from ddpm.pipeline import XrayToCTPipeline
from ddpm.weights.safe_load import read_weights
from evaluation.generation.sample import Sampling
from evaluation.generation.write_volumes import find_xrays, for_views, generate

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
WEIGHTS = "models/model.pt"  # the name that `monai.bundle.load` looks for


class XrayToCT(nn.Module):
    """A generator as one network from X-rays to CT volumes.

    `header` is JSON of `ddpm.checkpoint.write.header_of`, with the arguments of `set_sampler` as `sampling`.
    """

    def __init__(self, header: str):
        super().__init__()
        content = json.loads(header)
        pipeline = build_pipeline(content, path="network_def").set_sampler(**content["sampling"])
        for name, part in pipeline.networks.items():
            self.add_module(name, part)
        self._pipeline = (pipeline,)  # a tuple, so that torch does not register it
        self.eval()

    @property
    def pipeline(self) -> XrayToCTPipeline:
        """The pipeline with the weights of this network."""
        return self._pipeline[0]

    def forward(self, xray: Float[Tensor, "b v h w"], seed: int = 0) -> Float[Tensor, "b 1 D H W"]:
        """One sample in HU of each patient's X-rays in [0, 1] (bright bone), a channel for each view, frontal first.

        A generator that was trained with dropped views takes the frontal alone.
        """
        return self.pipeline(xray[:, :, None], seed=seed, allow_any_picture=True).volumes


def filled(network: XrayToCT, weights: str | Path, device: torch.device | str = "cpu") -> XrayToCT:
    """The network with loaded weights, on a device; UserError for a file that is not the weights of this network."""
    try:
        network.load_state_dict(read_weights(weights))
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{weights}: not the weights of this bundle ({str(error)[:200]}); copy them again") from error
    return network.to(device)


def infer(
    network: XrayToCT, xray: str, output_dir: str, samples: int = 1, seed: int = 0, batch_size: int = 4
) -> list[str]:
    """Writes the files of `evaluation/generate.py` for an X-ray file or folder; returns the paths of the volumes."""
    sampling = Sampling(samples, seed, batch_size)
    found = find_xrays(xray)
    found = for_views(found, network.pipeline.protocol) if Path(xray).is_dir() else found
    made = generate(network.pipeline, found, Path(output_dir), sampling, overwrite=True)
    return [str(path) for path in made]


def write_bundle(pipeline: XrayToCTPipeline, folder: Path, name: str) -> None:
    """Writes `configs/metadata.json`, `configs/inference.json`, `models/model.pt` and an empty folder `docs`."""
    for place in ("configs", "models", "docs"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    weights = {
        f"{part}.{key}": value.detach().cpu().contiguous()
        for part, module in pipeline.networks.items()
        for key, value in module.state_dict().items()
    }
    torch.save(weights, folder / WEIGHTS)
    for file, content in (("metadata", _metadata(pipeline, name)), ("inference", _inference(pipeline))):
        text = json.dumps(content, indent=2) + "\n"
        (folder / "configs" / f"{file}.json").write_text(text, encoding="utf-8")


def _inference(pipeline: XrayToCTPipeline) -> dict:
    header = {**header_of(pipeline), "sampling": dict(pipeline.config.sampling)}
    return {
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "xray": "",
        "output_dir": "$@bundle_root + '/eval'",
        "samples": 1,
        "seed": 0,
        "network_def": {"_target_": "xray2ct.bundle.XrayToCT", "header": json.dumps(header)},
        "network": {
            "_target_": "xray2ct.bundle.filled",
            "network": "@network_def",
            "weights": f"$@bundle_root + '/{WEIGHTS}'",
            "device": "@device",
        },
        "run": [
            {"_target_": "xray2ct.bundle.infer"}
            | {key: f"@{key}" for key in ("network", "xray", "output_dir", "samples", "seed")}
        ],
    }


def _takes(protocol: dict) -> str:
    if protocol.get("views", 1) != 2:
        return "one chest X-ray"
    return "one or two chest X-rays" if serves_fewer_views(protocol) else "two chest X-rays"


def _metadata(pipeline: XrayToCTPipeline, name: str) -> dict:
    low, high = pipeline.window.low, pipeline.window.high
    image = {"type": "image", "format": "magnitude", "modality": "DX", "num_channels": 1, "dtype": "float32"}
    volume = {**image, "format": "hounsfield", "modality": "CT", "spatial_shape": list(pipeline.volume_size)}
    views = pipeline.protocol.get("views", 1) if pipeline.protocol.get("input") != "volume" else 1
    names = [f"{name}X-ray, bright bone" for name in (("frontal ", "lateral ") if views == 2 else [""] * views)]
    xray = {
        "spatial_shape": list(pipeline.protocol["xray_size"]),
        "value_range": [0, 1],
        "is_patch_data": False,
        "num_channels": views,
        "channel_def": {str(i): name for i, name in enumerate(names)},
    }
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__,
        "numpy_version": np.__version__,
        "required_packages_version": {"python": platform.python_version()},
        "name": name,
        "task": f"Synthesis of a chest CT volume from {_takes(pipeline.protocol)}",
        "description": "Latent diffusion in 3D. Synthetic, not for diagnosis. Needs the package xray2ct.",
        "authors": "the authors of the weights",
        "copyright": "see the inherited licences, docs/README.md",
        "data_source": str(pipeline.protocol.get("dataset", "unknown")),
        "data_type": "X-ray as PNG, JPEG, DICOM or NIfTI; CT as NIfTI",
        "intended_use": "Research; not for diagnosis",
        "network_data_format": {
            "inputs": {"image": {**image, **xray}},
            "outputs": {"pred": {**volume, "value_range": [low, high], "is_patch_data": False,
                                 "channel_def": {"0": "HU, synthetic"}}},
        },
    }  # fmt: skip
