"""bfloat16 on hardware that computes in it."""

import torch


def bfloat16_supported(device: torch.device) -> bool:
    """Whether the device computes in bfloat16; a CPU without AVX-512 and a GPU before Ampere emulate it, slower
    than float32."""
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def inference_autocast(device: torch.device) -> torch.autocast:
    """An autocast context to bfloat16 on hardware that supports it, disabled elsewhere.

    float16 is not used: the SDXL VAE overflows in it.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16_supported(device))
