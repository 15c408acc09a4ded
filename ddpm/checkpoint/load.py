"""From a path to a model on the CPU."""

from pathlib import Path

import torch
from torch import nn

from ddpm.checkpoint.read import read
from ddpm.pipeline import XrayToCTPipeline
from ddpm.pipeline_folder import is_folder


def load_pipeline(path: str | Path, device: str | torch.device = "cpu") -> XrayToCTPipeline:
    """The pipeline of a checkpoint, an exported file, a file of adapters or a diffusers folder."""
    pipeline = XrayToCTPipeline.from_pretrained(path) if is_folder(path) else read(path).pipeline()
    return pipeline.to(device)


def load_classifier(path: str | Path) -> tuple[nn.Module, dict]:
    """A classifier and its protocol, whose `input` is `ct`, `xray` or `generated`."""
    checkpoint = read(path)
    return checkpoint.classifier(), checkpoint.protocol
