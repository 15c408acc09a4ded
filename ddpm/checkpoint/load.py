"""One line from a path to a model, on the CPU."""

from pathlib import Path

import torch
from torch import nn

from ddpm.checkpoint.read import read
from ddpm.pipeline import XrayToCTPipeline
from ddpm.pipeline_folder import is_folder
from vq_gan_3d import VQGAN3D


def load_pipeline(path: str | Path, device: str | torch.device = "cpu") -> XrayToCTPipeline:
    """The pipeline of a checkpoint, an exported file, a file of adapters or a folder of diffusers."""
    pipeline = XrayToCTPipeline.from_pretrained(path) if is_folder(path) else read(path).pipeline()
    return pipeline.to(device)


def load_vqgan(path: str | Path) -> VQGAN3D:
    """The autoencoder of a VQ-GAN checkpoint."""
    return read(path).vqgan()


def load_classifier(path: str | Path) -> tuple[nn.Module, dict]:
    """A classifier and its protocol, whose `input` is `ct`, `xray` or `generated`."""
    checkpoint = read(path)
    return checkpoint.classifier(), checkpoint.protocol
