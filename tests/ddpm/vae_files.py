"""Small 2D VAEs of the classes that SDXL uses, and files of them in every layout that users have."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

SMALL_KL = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (8, 8), "layers_per_block": 1,
    "norm_num_groups": 4, "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "scaling_factor": 0.13025,
}  # fmt: skip
SMALL_MAISI = {"num_channels": [8, 8, 16], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4}
SMALL_TINY = {
    "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1), "latent_channels": 4,
}  # fmt: skip


def kl() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(**SMALL_KL)


def tiny() -> AutoencoderTiny:
    torch.manual_seed(0)
    return AutoencoderTiny(**SMALL_TINY)


def original_keys(vae: AutoencoderKL, prefix: str = "") -> dict[str, torch.Tensor]:
    """Weights under the names of the original release, with attention as 1×1 convolutions."""
    blocks = len(vae.config.block_out_channels)
    found = {}
    for name, value in vae.state_dict().items():
        for i in range(blocks):
            name = name.replace(f"down_blocks.{i}.resnets", f"down.{i}.block")
            name = name.replace(f"down_blocks.{i}.downsamplers.0", f"down.{i}.downsample")
            name = name.replace(f"up_blocks.{i}.resnets", f"up.{blocks - 1 - i}.block")
            name = name.replace(f"up_blocks.{i}.upsamplers.0", f"up.{blocks - 1 - i}.upsample")
            name = name.replace(f"mid_block.resnets.{i}", f"mid.block_{i + 1}")
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            for new, old in (
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):
                name = name.replace(f".{new}.", f".{old}.")
            if value.ndim == 2:
                value = value[:, :, None, None]
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        found[prefix + name] = value.contiguous()
    return found


def hub_cache(folder: Path, repository: str, vae, subfolder: str = "") -> Path:
    """A Hugging Face cache that holds a VAE, as a download leaves it."""
    home = folder / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    vae.save_pretrained(home / "snapshots" / ("0" * 40) / subfolder)
    return folder
