"""Roofline of a workload: its operations over the measured peak rate, its bytes over the measured bandwidth.

`torch.utils.flop_counter` counts operations in convolutions, matrix products and attention, two per multiply-add.
Bytes are those that the same operators read and write once each, as if all other operators were fused into them.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from benchmarks.timing import timed

PRODUCTS = ("convolution", "mm", "bmm", "addmm", "baddbmm", "attention", "linear", "embedding")


class _Bytes(TorchDispatchMode):
    """Sums the bytes that operators read and write: `products` of those in `PRODUCTS`, `all` of all."""

    def __init__(self):
        super().__init__()
        self.products, self.all = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments):
            return out  # a view
        size = sum(
            t.numel() * t.element_size() for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)
        )
        self.all += size
        if any(word in func.__name__ for word in PRODUCTS):
            self.products += size
        return out


def count(work) -> dict[str, float]:
    """`{"gflop", "product_gb", "all_gb"}` of one call of `work`."""
    name = "_scaled_dot_product_flash_attention_for_cpu"
    custom = {  # the counter lacks attention on a CPU; backward has five products where forward has two
        getattr(torch.ops.aten, name): lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value),
        getattr(torch.ops.aten, f"{name}_backward"): lambda _, query, key, value, *__, **___: (
            5 * sdpa_flop_count(query, key, value) // 2
        ),
    }
    custom = {operator: formula for operator, formula in custom.items() if operator not in flop_registry}
    flops, moved = FlopCounterMode(display=False, custom_mapping=custom), _Bytes()
    with flops, moved:
        work()
    return {"gflop": flops.get_total_flops() / 1e9, "product_gb": moved.products / 1e9, "all_gb": moved.all / 1e9}


def machine_peak(device: str) -> dict[str, float]:
    """Measured `bf16_tflops`, `fp32_tflops` of a square matrix product, `gb_per_s` of a copy (read and write)."""
    n = 8192 if device == "cuda" else 1024
    found = {}
    for name, dtype in (("bf16_tflops", torch.bfloat16), ("fp32_tflops", torch.float32)):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * n**3 / _best(lambda a=a, b=b: a @ b, device) / 1e12
    source = torch.randn(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    found["gb_per_s"] = 2 * source.numel() * 4 / _best(lambda: target.copy_(source), device) / 1e9
    return found


def _best(work, device: str) -> float:
    """Minimum wall-clock seconds per call of four rounds of five calls, after one that warms up."""
    return min([timed(work, 5, device)[0] for _ in range(5)][1:])
