"""Low-rank adapters (LoRA, by peft) for fine-tuning: the weights of a trained model stay, small matrices beside learn.

Hu et al., "LoRA" (2021): a layer W becomes W + alpha/rank · B·A with B zero at the start. A convolution's A has its
kernel, its B is 1×1×1. Once trained, an adapter is merged into W, and nothing is slower.
"""

import math
import re

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NAME = "default"  # peft's name of the one adapter


def add_lora(parts: nn.Module, rank: int, alpha: float, patterns: list[str] | None = None) -> dict:
    """Puts adapters beside layers of `parts`, in place; from then on they alone have gradients.

    Args:
        alpha: the change is scaled by `alpha / rank`.
        patterns: regular expressions, one of which the name of a layer must hold; None takes every linear layer and
            convolution that would train otherwise and is larger than its adapter.

    Returns:
        What `restore_lora` needs, as plain JSON.

    Raises:
        ValueError: for a rank below 1, a pattern that fits no layer, or a rank that leaves none.
    """
    if rank < 1:
        raise ValueError(f"model.lora.rank={rank}: must be at least 1")
    layers = _choose(parts, rank, patterns)
    restore_lora(parts, rank, alpha, layers)
    return {"rank": rank, "alpha": alpha, "layers": layers}


def restore_lora(parts: nn.Module, rank: int, alpha: float, layers: list[str]) -> None:
    """Puts untrained adapters beside the named layers, as `add_lora` did, for their weights to be loaded.

    Raises:
        ValueError: for a layer that is not there.
    """
    from peft import LoraConfig, inject_adapter_in_model

    known = dict(parts.named_modules())
    strange = [name for name in layers if not _adaptable(known.get(name))]
    if strange or not layers:
        raise ValueError(f"no linear layer or convolution is named {strange[0] if strange else 'at all'}")
    parts.requires_grad_(False)
    exactly = "|".join(re.escape(name) for name in layers)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=f"^({exactly})$"), parts)
    del parts.peft_config  # peft's note for adding a second adapter; a header of our own says it
    for layer in _adapted(parts).values():
        base, inner = layer.base_layer, layer.lora_A[NAME]
        if type(base) is not type(inner) and isinstance(base, type(inner)):
            inner.__class__ = type(base)  # a subclass that guards its convolution guards the adapter's as well


def adapter_names(parts: nn.Module) -> set[str]:
    """Names of the adapters' parameters."""
    return {name for name, _ in parts.named_parameters() if ".lora_A." in name or ".lora_B." in name}


@torch.no_grad()
def merge_lora(parts: nn.Module) -> None:
    """Adds every adapter to its layer and takes it away, in place."""
    modules = dict(parts.named_modules())
    for name, layer in _adapted(parts).items():
        base = layer.base_layer
        inner, outer = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        # of a convolution too this is the exact product, as its B has one voxel; peft's own fails for 1×1×1
        change = (outer.flatten(1) @ inner.flatten(1)).view_as(base.weight)
        base.weight += layer.scaling[NAME] * change
        parent, _, own = name.rpartition(".")
        setattr(modules[parent], own, base)


def _choose(parts: nn.Module, rank: int, patterns: list[str] | None) -> list[str]:
    trained = {name: m for name, m in parts.named_modules() if _adaptable(m) and m.weight.requires_grad}
    if patterns is None:
        chosen = [name for name, layer in trained.items() if _adapter_size(layer, rank) < layer.weight.numel()]
        if not chosen:
            raise ValueError(f"model.lora.rank={rank}: no layer is larger than its adapter; take a smaller rank")
        return chosen
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in trained):
            shown = ", ".join(list(trained)[:3])
            raise ValueError(f"model.lora.target_modules: {pattern!r} fits no layer; there are {shown}, …")
    return [name for name in trained if any(re.search(pattern, name) for pattern in patterns)]


def _adaptable(layer: nn.Module | None) -> bool:
    if isinstance(layer, NonDynamicallyQuantizableLinear):  # of nn.MultiheadAttention, which reads it past its forward
        return False
    return isinstance(layer, LAYERS) and getattr(layer, "groups", 1) == 1


def _adapter_size(layer: nn.Module, rank: int) -> int:
    out, inside = layer.weight.shape[:2]
    return rank * (inside * math.prod(layer.weight.shape[2:]) + out)


def _adapted(parts: nn.Module) -> dict[str, nn.Module]:
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in parts.named_modules() if isinstance(layer, LoraLayer)}
