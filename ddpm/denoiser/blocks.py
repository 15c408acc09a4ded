"""Building blocks of the 3D U-Net: convolutions, residual blocks, attention, sinusoidal embeddings."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

_FREQUENCIES = (1.0, 2.0, 4.0)
POSITION_CHANNELS = 3 * (1 + 2 * len(_FREQUENCIES))


class Conv3d(nn.Conv3d):
    """A convolution in float32 for inputs two voxels deep on a CPU, where oneDNN's bfloat16 gradient is wrong."""

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
        mixed = rearrange(attend(q, k, v), "n heads t c -> n t (heads c)").to(x.dtype)
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
        voxels = self.norm(rearrange(x, "b c d h w -> b (d h w) c"))
        q = rearrange(self.query(voxels), "b t (m c) -> b m t c", m=self.heads)
        k, v = rearrange(self.key_value(tokens.to(x.dtype)), "b t (two m c) -> two b m t c", two=2, m=self.heads)
        mixed = rearrange(attend(q, k, v).to(x.dtype), "b m t c -> b t (m c)")
        out = rearrange(self.out(mixed), "b (d h w) c -> b c d h w", d=d, h=h, w=w)
        return x + (out if keep is None else out * keep.to(out.dtype).view(-1, 1, 1, 1, 1))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Fused attention; in float32 on a CPU, whose bfloat16 backward pass is many times slower without AMX."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float())


def positions(size: torch.Size, device: torch.device) -> Float[Tensor, "1 p d h w"]:
    """Coordinates of every voxel in [-1, 1], and their sines and cosines."""
    axes = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) * (2.0 / n) - 1.0 for n in size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    waves = [f(math.pi / 2 * frequency * grid) for frequency in _FREQUENCIES for f in (torch.sin, torch.cos)]
    return torch.cat([grid, *waves]).unsqueeze(0)


def sinusoids(timestep: Tensor, dim: int) -> Float[Tensor, "b dim"]:
    """Sinusoidal embedding of the timestep, wavelengths from 2π to 20000π (Vaswani et al., 2017)."""
    half = dim // 2
    rate = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=timestep.device, dtype=torch.float32))
    angle = timestep.float()[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
