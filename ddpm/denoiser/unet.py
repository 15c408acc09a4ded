"""The 3D U-Net denoiser, conditioned on X-ray and time: 3×3×3 convolutions, or 1×3×3 ones with attention along depth.

The factorised layout follows Ho et al., "Video Diffusion Models" (2022), with depth in place of time; adaptive group
norm Dhariwal and Nichol, "Diffusion Models Beat GANs" (2021). Channels-last memory and fused attention make it fast.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddpm.denoiser.blocks import (
    POSITION_CHANNELS,
    Conv3d,
    DepthAttention,
    PlaneAttention,
    ResBlock,
    TokenAttention,
    positions,
    sinusoids,
)
from ddpm.denoiser.preconditioning import GaussianPreconditioning


@dataclass(frozen=True)
class ConditionShape:
    """Sizes of the X-ray condition; 0 disables a form of it."""

    channels: int = 16  # of the lifted X-ray features
    embedding_dim: int = 512  # length of the global X-ray embedding
    token_channels: int = 0  # of the X-ray tokens for cross-attention at the coarsest level
    token_grid: int = 0  # tokens per side, to which `make_condition` averages the X-ray's feature map


@dataclass(frozen=True)
class PriorUse:
    """Use of a linear prior of the clean latents (`ddpm.conditioning.linear_prior`), beside its input."""

    residual: bool = False  # the output is added to the prior; for clean latents or with preconditioning
    preconditioning: dict | None = None  # arguments of `GaussianPreconditioning`; None adds the output to the prior


class UNet3D(ModelMixin, ConfigMixin):
    """Noisy latents `(b, in_channels, d, h, w)` to a prediction of the same shape.

    Args:
        in_channels: channels of the latents, in and out.
        dim: width of the first level; `dim_mults` give the widths of all levels.
        blocks: residual blocks per level, on each side.
        full_conv: 3×3×3 convolutions and halving along all axes, in place of 1×3×3 and halving in plane.
        depth_attention: attention along depth at every level; the coarsest always has it, and attention in plane.
        head_dim: channels of an attention head.
        condition: arguments of `ConditionShape`; None takes its defaults.
        prior: arguments of `PriorUse`; None for a denoiser without a linear prior.
        regression: replaces the noisy latents by zeros, so that the network is a plain regression from the X-ray.
    """

    _supports_gradient_checkpointing = True  # diffusers' `enable_gradient_checkpointing()`, per part of a level

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        dim: int = 64,
        dim_mults: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        full_conv: bool = True,
        depth_attention: bool = False,
        head_dim: int = 32,
        condition: dict | None = None,
        prior: dict | None = None,
        regression: bool = False,
    ):
        super().__init__()
        self.condition = ConditionShape(**(condition or {}))
        self.prior = None if prior is None else PriorUse(**prior)
        preconditioning = self.prior.preconditioning if self.prior else None
        if preconditioning and (regression or not self.prior.residual):
            raise ValueError("preconditioning needs a linear prior with residual=true, and regression=false")
        widths = [dim * m for m in dim_mults]
        time_dim = 4 * dim
        self.time = nn.Sequential(nn.Linear(dim, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.xray = None
        if length := self.condition.embedding_dim:
            self.xray = nn.Sequential(nn.LayerNorm(length), nn.Linear(length, time_dim))
        self.no_xray = nn.Parameter(torch.zeros(time_dim))  # replaces the embedding of a dropped X-ray
        inputs = in_channels * (2 if self.prior else 1) + self.condition.channels
        self.stem = Conv3d(inputs + POSITION_CHANNELS, widths[0], 3, padding=1)

        def level(width_in: int, width: int) -> nn.ModuleList:
            parts = [ResBlock(width if i else width_in, width, time_dim, full_conv) for i in range(blocks)]
            return nn.ModuleList([*parts, *([DepthAttention(width, head_dim)] if depth_attention else [])])

        self.down = nn.ModuleList(level(w, w) for w in widths)
        kernel = (2, 2, 2) if full_conv else (1, 2, 2)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.downsample = nn.ModuleList(nn.Conv3d(a, b, kernel, stride=kernel) for a, b in pairs)
        tokens = self.condition.token_channels
        self.middle = nn.ModuleList(
            [
                ResBlock(widths[-1], widths[-1], time_dim, full_conv),
                *([TokenAttention(widths[-1], tokens, head_dim)] if tokens else []),
                PlaneAttention(widths[-1], head_dim),
                DepthAttention(widths[-1], head_dim),
                ResBlock(widths[-1], widths[-1], time_dim, full_conv),
            ]
        )
        self.up = nn.ModuleList(level(2 * w, w) for w in widths)
        self.upsample = nn.ModuleList(nn.ConvTranspose3d(b, a, kernel, stride=kernel) for a, b in pairs)
        self.norm = nn.GroupNorm(8, widths[0])
        self.out = Conv3d(widths[0], in_channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.preconditioning = GaussianPreconditioning(**preconditioning) if preconditioning else None
        self.gradient_checkpointing = False
        self.to(memory_format=torch.channels_last_3d)

    @classmethod
    def from_pretrained(cls, *arguments, **options) -> "UNet3D":
        """diffusers' method, then the channels-last memory layout, which its loader drops."""
        return super().from_pretrained(*arguments, **options).to(memory_format=torch.channels_last_3d)

    def forward(
        self,
        sample: Float[Tensor, "b c d h w"],
        timestep: Int[Tensor, " b"] | Float[Tensor, " b"],
        embedding: Float[Tensor, "b e"] | None = None,
        features: Float[Tensor, "b f d h w"] | None = None,
        keep: Float[Tensor, " b"] | None = None,
        tokens: Float[Tensor, "b n t"] | None = None,
        prior: Float[Tensor, "b c d h w"] | None = None,
        prior_std: Float[Tensor, "b c d h w"] | None = None,
    ) -> Float[Tensor, "b c d h w"]:
        """Prediction of the objective's target.

        Args:
            timestep: 0 … T-1.
            embedding: global X-ray embedding; None for no X-ray.
            features: X-ray features on the latent grid (`ddpm.conditioning.lift.RayLift`).
            keep: 1 keeps a sample's X-ray, 0 drops it; None keeps all.
            tokens: X-ray features for cross-attention.
            prior: linear prior of the clean latents.
            prior_std: standard deviation of clean latents around the prior; needed for preconditioning.
        """
        self.check_size(sample.shape[2:])
        b, noisy = sample.shape[0], sample
        if self.config.regression:
            sample = torch.zeros_like(sample)
        elif self.preconditioning is not None:
            sample = self.preconditioning.mask_pure_noise(sample, timestep)
        keep = sample.new_zeros(b) if embedding is None else keep
        emb = self.time(sinusoids(timestep, self.config.dim).to(sample.dtype)) + self._global(embedding, keep, b)
        parts = [sample, positions(sample.shape[2:], sample.device).to(sample.dtype).expand(b, -1, -1, -1, -1)]
        if self.condition.channels:
            parts.append(_masked(features, keep, sample, self.condition.channels))
        if self.prior:
            prior = _masked(prior, keep, sample, self.config.in_channels)
            parts.append(prior)
        x = self.stem(torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last_3d))

        skips = []
        for i, level in enumerate(self.down):
            for part in level:
                x = self._run(part, x, emb)
            skips.append(x)
            if i < len(self.downsample):
                x = self.downsample[i](x)
        for part in self.middle:
            x = part(x, tokens, keep) if isinstance(part, TokenAttention) else self._run(part, x, emb)
        for i in reversed(range(len(self.up))):
            x = torch.cat([x, skips[i]], dim=1)
            for part in self.up[i]:
                x = self._run(part, x, emb)
            if i > 0:
                x = self.upsample[i - 1](x)
        x = self.out(F.silu(self.norm(x)))
        if self.preconditioning is None:
            return x + prior if self.prior and self.prior.residual else x
        if prior_std is None:
            if embedding is not None:
                raise ValueError("the denoiser is preconditioned: give prior_std with prior")
            prior_std = torch.ones_like(prior)
        gaussian, scale = self.preconditioning(noisy, prior, prior_std, timestep, keep)
        return gaussian + scale * x

    def _run(self, part: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(part, x, emb)
        return part(x, emb)

    def _global(self, embedding: Tensor | None, keep: Tensor | None, b: int) -> Tensor:
        """Embedding of the X-ray that modulates the norms `(b, 4·dim)`; a learned vector without an X-ray."""
        empty = self.no_xray.expand(b, -1)
        if embedding is None or self.xray is None:
            return empty
        encoded = self.xray(embedding).to(empty.dtype)
        return encoded if keep is None else torch.lerp(empty, encoded, keep[:, None].to(empty.dtype))

    def check_size(self, size: tuple[int, int, int]) -> None:
        """Raises a ValueError for latents `(d, h, w)` that cannot be halved once for every further level."""
        factor = 2 ** (len(self.config.dim_mults) - 1)
        sides = size if self.config.full_conv else size[1:]
        if any(side % factor for side in sides):
            raise ValueError(
                f"latents of {tuple(size)}: sides must be multiples of {factor} with "
                f"dim_mults={list(self.config.dim_mults)}; take fewer dim_mults or another volume_size"
            )


def _masked(part: Tensor | None, keep: Tensor | None, sample: Tensor, channels: int) -> Tensor:
    """One part of the condition in the dtype of the sample; zeros where it is dropped or missing."""
    if part is None:
        return sample.new_zeros(len(sample), channels, *sample.shape[2:])
    part = part.to(sample.dtype)
    return part if keep is None else part * keep.to(part.dtype).view(-1, 1, 1, 1, 1)
