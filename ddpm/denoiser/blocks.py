"""Building blocks of the 3D U-Net: convolutions, residual blocks, attention."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """A convolution that stays in float32 where oneDNN's bfloat16 convolution is wrong.

    On a CPU its weight gradient reads uninitialised memory for an input two voxels deep and a kernel of three (torch
    2.14, about every third call), which gives gradients of 1e31.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(b, c, d, h, w)`."""
        if x.device.type == "cpu" and x.shape[2] == 2 and self.kernel_size[0] == 3:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


class ResBlock(nn.Module):
    """Residual block of two convolutions; the embedding scales and shifts the second norm."""

    def __init__(self, width_in: int, width: int, embedding: int, full_conv: bool):
        super().__init__()
        kernel, padding = ((3, 3, 3), (1, 1, 1)) if full_conv else ((1, 3, 3), (0, 1, 1))
        self.norm1, self.norm2 = nn.GroupNorm(8, width_in), nn.GroupNorm(8, width, affine=False)
        self.conv1 = Conv3d(width_in, width, kernel, padding=padding)
        self.conv2 = Conv3d(width, width, kernel, padding=padding)
        self.modulate = nn.Linear(embedding, 2 * width)
        self.skip = nn.Conv3d(width_in, width, 1) if width_in != width else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """`(b, width_in, d, h, w)` and `(b, embedding)` to `(b, width, d, h, w)`."""
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        scale, shift = self.modulate(F.silu(emb))[:, :, None, None, None].chunk(2, dim=1)
        return self.skip(x) + self.conv2(F.silu(torch.addcmul(shift, h, 1 + scale)))


class DepthAttention(nn.Module):
    """Self-attention among the voxels of one column along D."""

    pattern = "b c d h w -> (b h w) d c"

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.heads = max(1, width // head_dim)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Same shape as `x` `(b, c, d, h, w)`; the embedding is unused."""
        b, _, d, h, w = x.shape
        tokens = self.norm(rearrange(x, self.pattern))
        q, k, v = rearrange(self.qkv(tokens), "n t (three heads c) -> three n heads t c", three=3, heads=self.heads)
        mixed = attend(q, k, v)
        mixed = rearrange(mixed, "n heads t c -> n t (heads c)").to(x.dtype)
        left, right = self.pattern.split(" -> ")
        return x + rearrange(self.out(mixed), f"{right} -> {left}", b=b, d=d, h=h, w=w)


class PlaneAttention(DepthAttention):
    """Self-attention among the voxels of one axial plane."""

    pattern = "b c d h w -> (b d) (h w) c"


class TokenAttention(nn.Module):
    """Cross-attention of every voxel to the tokens of the X-ray."""

    def __init__(self, width: int, token_channels: int, head_dim: int):
        super().__init__()
        self.heads = max(1, width // head_dim)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(token_channels, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, tokens: Tensor | None, keep: Tensor | None) -> Tensor:
        """Same shape as `x` `(b, c, d, h, w)`, for tokens `(b, n, t)`; a dropped X-ray adds nothing."""
        if tokens is None:
            return x
        d, h, w = x.shape[2:]
        q = rearrange(
            self.query(self.norm(rearrange(x, "b c d h w -> b (d h w) c"))), "b t (m c) -> b m t c", m=self.heads
        )
        k, v = rearrange(self.key_value(tokens.to(x.dtype)), "b t (two m c) -> two b m t c", two=2, m=self.heads)
        mixed = rearrange(attend(q, k, v).to(x.dtype), "b m t c -> b t (m c)")
        out = rearrange(self.out(mixed), "b (d h w) c -> b c d h w", d=d, h=h, w=w)
        return x + (out if keep is None else out * keep.to(out.dtype).view(-1, 1, 1, 1, 1))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Fused attention; in float32 on a CPU, where the backward pass in bfloat16 is many times slower without AMX."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float())
