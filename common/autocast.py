"""bfloat16 autocast for inference."""

import torch


def inference_autocast(device: torch.device) -> torch.autocast:
    """An autocast context to bfloat16 on hardware that supports it, disabled elsewhere.

    float16 is not used: the SDXL VAE overflows in it.
    """
    if device.type == "cpu":
        supported = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=supported)
