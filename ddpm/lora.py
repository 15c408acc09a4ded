"""Low-rank adapters (LoRA, by peft) for fine-tuning a model with frozen weights.

LoRA (arXiv:2106.09685): a layer W becomes W + alpha/rank · B·A with B zero at the start. A convolution's A has its
kernel, its B is 1×1×1. A trained adapter is merged into W.
"""

import math
import re

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NAME = "default"  # peft's name of the one adapter


def add_lora(parts: nn.Module, rank: int, alpha: float, patterns: list[str] | None = None) -> dict:
    """Adds adapters to layers of `parts`, in place; only they have gradients afterwards.

    Args:
        alpha: the change is scaled by `alpha / rank`.
        patterns: regular expressions, one of which the name of a layer must match; None takes every linear layer and
            convolution that would train otherwise and is larger than its adapter.

    Returns:
        Arguments of `restore_lora`, as plain JSON.
    """
    if rank < 1:
        raise ValueError(f"model.lora.rank={rank}: must be at least 1")
    layers = _choose(parts, rank, patterns)
    restore_lora(parts, rank, alpha, layers)
    return {"rank": rank, "alpha": alpha, "layers": layers}


def restore_lora(parts: nn.Module, rank: int, alpha: float, layers: list[str]) -> None:
    """Adds untrained adapters to the named layers, as `add_lora` did, for their weights to be loaded."""
    from peft import LoraConfig, inject_adapter_in_model

    known = dict(parts.named_modules())
    unknown = [name for name in layers if not _adaptable(known.get(name))]
    if unknown or not layers:
        raise ValueError(f"no linear layer or convolution is named {unknown[0] if unknown else 'at all'}")
    parts.requires_grad_(False)
    exactly = "|".join(re.escape(name) for name in layers)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=f"^({exactly})$"), parts)
    del parts.peft_config  # peft's record for a second adapter; the checkpoint's header has its own
    for layer in _adapted(parts).values():
        base, inner = layer.base_layer, layer.lora_A[NAME]
        if type(base) is not type(inner) and isinstance(base, type(inner)):
            inner.__class__ = type(base)  # the adapter's convolution needs the subclass's forward as well


def adapter_names(parts: nn.Module) -> set[str]:
    """Names of the adapters' parameters."""
    return {name for name, _ in parts.named_parameters() if ".lora_A." in name or ".lora_B." in name}


@torch.no_grad()
def merge_lora(parts: nn.Module) -> None:
    """Adds every adapter to the weight of its layer and removes it, in place."""
    modules = dict(parts.named_modules())
    for name, layer in _adapted(parts).items():
        base = layer.base_layer
        inner, outer = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        # also the exact product for a convolution, whose B has one voxel; peft's own merge fails for 1×1×1
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
            raise ValueError(f"model.lora.target_modules: {pattern!r} matches no layer; there are {shown}, …")
    return [name for name in trained if any(re.search(pattern, name) for pattern in patterns)]


def _adaptable(layer: nn.Module | None) -> bool:
    if isinstance(layer, NonDynamicallyQuantizableLinear):  # nn.MultiheadAttention bypasses its forward
        return False
    return isinstance(layer, LAYERS) and getattr(layer, "groups", 1) == 1


def _adapter_size(layer: nn.Module, rank: int) -> int:
    out, inside = layer.weight.shape[:2]
    return rank * (inside * math.prod(layer.weight.shape[2:]) + out)


def _adapted(parts: nn.Module) -> dict[str, nn.Module]:
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in parts.named_modules() if isinstance(layer, LoraLayer)}
