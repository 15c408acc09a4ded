"""Averages a fine-tuned model with the one that it started from.

The mean of both weights often generalises better than either, as both lie in one basin of the loss (WiSE-FT, Wortsman
et al., arXiv:2109.01903, with mixing coefficient 0.5).
"""

from pathlib import Path

import torch

from common.errors import UserError
from common.files import sha256
from ddpm.checkpoint.load import load_pipeline
from ddpm.pipeline import XrayToCTPipeline
from ddpm.registry import TRAINED


@torch.no_grad()
def average_with(pipeline: XrayToCTPipeline, path: Path) -> None:
    """Replaces the trained weights of `pipeline` by their mean with those of the file that it was trained from.

    Latent encoder, prior and measured parts stay. Raises UserError for another file than that of `model.init_from`,
    whose training patients the pipeline would not know, and for networks of another structure.
    """
    started, digest = pipeline.protocol.get("init_from") or {}, sha256(path)
    if started.get("sha256") != digest:
        found = f"{started['file']} (SHA-256 {started['sha256'][:16]}…)" if started else "no other weights"
        raise UserError(
            f"average_with={path}: the checkpoint was trained from {found}, this file has SHA-256 {digest[:16]}…; "
            "give the file of its model.init_from"
        )
    earlier = load_pipeline(path).networks
    for name in TRAINED:
        ours, theirs = (parts.get(name) for parts in (pipeline.networks, earlier))
        own, other = ({} if part is None else part.state_dict() for part in (ours, theirs))
        if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in other.items()}:
            raise UserError(f"average_with={path}: its {name} has another structure than that of the checkpoint")
        for key, value in own.items():
            if value.is_floating_point():
                value.lerp_(other[key].to(value), 0.5)
    pipeline.register_to_config(protocol={**pipeline.protocol, "averaged_with": {"file": path.name, "sha256": digest}})
