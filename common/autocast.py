"""bfloat16 matrix products where the hardware has them: for networks that only run forward."""

import torch


def inference_autocast(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 on a device with such instructions, and nothing elsewhere; float16 overflows SDXL VAEs."""
    if device.type == "cpu":
        able = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=able)
