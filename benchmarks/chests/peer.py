"""A peer of another kind: a convolutional GAN that lifts features of one X-ray to a volume in one step.

After the design of X2CT-GAN (Ying et al., "X2CT-GAN: reconstructing CT from biplanar X-rays with generative
adversarial networks", CVPR 2019, arXiv 1905.06902) with one view, written anew: a 2D encoder, a 3D decoder with skip
connections that turn 2D features into 3D ones, least-squares adversarial loss on 3D patches under the condition of the
X-ray, squared error of the volume, absolute error of its projections along the three axes.
"""

import torch
from jaxtyping import Float
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional as F

from dataset.imaging.unknown_pixels import split_unknown

COARSEST = 4  # voxels per side where the decoder starts
ADVERSARIAL, RECONSTRUCTION, PROJECTION = 0.1, 10.0, 10.0  # weights of the losses, as in the paper
ADAM = {"lr": 2.0e-4, "betas": (0.5, 0.99)}  # as in the paper


class Lift(nn.Module):
    """2D features `(b, c, side, side)` as 3D ones: a 1x1 convolution predicts all voxels along each ray.

    Rays are parallel to the axis H; row 0 is superior and D runs upward, so rows are turned.
    """

    def __init__(self, channels: int, channels_3d: int, side: int):
        super().__init__()
        self.side = side
        self.spread = nn.Conv2d(channels, channels_3d * side, 1)

    def forward(self, features: Float[Tensor, "b c n n"]) -> Float[Tensor, "b k n n n"]:
        return self.spread(features).unflatten(1, (-1, self.side)).transpose(2, 3).flip(2)


def condition_volume(xray: Float[Tensor, "b 1 n n"]) -> Float[Tensor, "b 1 n n n"]:
    """The X-ray repeated along H, in the axes of the volume."""
    return xray.flip(2)[:, :, :, None].expand(-1, -1, -1, xray.shape[-1], -1)


class Generator(nn.Module):
    """Volumes in [-1, 1] of a cube of `size` voxels (a power of two from 8) from frontal X-rays in [0, 1]."""

    def __init__(self, size: int = 64, width: int = 8):
        super().__init__()
        self.size = size
        levels = (size // COARSEST).bit_length() - 1
        if levels < 1 or COARSEST << levels != size:
            raise ValueError(f"size={size}: give a power of two from {2 * COARSEST}")
        widths = [min(width * 2**level, 8 * width) for level in range(levels + 1)]
        sides = [size >> level for level in range(levels + 1)]
        self.stem = _block(nn.Conv2d, 1, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(_block(nn.Conv2d, fine, coarse, stride=2), _block(nn.Conv2d, coarse, coarse))
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.lifts = nn.ModuleList(
            Lift(channels, channels, side) for channels, side in zip(widths, sides, strict=True)
        )
        self.up = nn.ModuleList(
            _block(nn.Conv3d, coarse + fine, fine) for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.head = nn.Conv3d(widths[0], 1, 3, padding=1)

    def forward(self, xray: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 n n n"]:
        features = [self.stem(resized(xray, self.size))]
        for down in self.down:
            features.append(down(features[-1]))
        lifted = [lift(part) for lift, part in zip(self.lifts, features, strict=True)]
        volume = lifted.pop()
        for up, skip in zip(reversed(self.up), reversed(lifted), strict=True):
            grown = F.interpolate(volume, scale_factor=2, mode="trilinear", align_corners=False)
            volume = up(torch.cat([grown, skip], dim=1))
        return self.head(volume).tanh()


class Peer(nn.Module):
    """Generator and discriminator with their losses."""

    def __init__(self, size: int = 64, width: int = 8):
        super().__init__()
        self.generator = Generator(size, width)
        layers = 3 if size >= 64 else 1
        self.discriminator = PatchDiscriminator(3, width, in_channels=2, num_layers_d=layers, norm="INSTANCE")

    def scores(self, xray: Float[Tensor, "b 1 h w"], volume: Float[Tensor, "b 1 n n n"]) -> Tensor:
        """One score per patch of volumes under the condition of their X-rays."""
        condition = condition_volume(resized(xray, self.generator.size)) * 2.0 - 1.0
        return self.discriminator(torch.cat([volume, condition], dim=1))[-1].float()

    def generator_losses(
        self, xray: Float[Tensor, "b 1 h w"], truth: Float[Tensor, "b 1 n n n"], known: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted losses by name, and the generated volumes; voxels outside `known` count in none of them."""
        volume = self.generator(xray).float()
        compared = volume if known is None else torch.where(known, volume, truth)
        losses = {
            "reconstruction": RECONSTRUCTION * F.mse_loss(compared, truth),
            "projection": PROJECTION * projection_loss(compared, truth),
            "adversarial": ADVERSARIAL * (self.scores(xray, compared) - 1.0).square().mean(),
        }
        return losses, compared

    def discriminator_loss(self, xray: Tensor, truth: Tensor, generated: Tensor) -> Tensor:
        """Least-squares loss of true patches against 1 and generated ones against 0 (Mao et al. 2017)."""
        real, fake = self.scores(xray, truth), self.scores(xray, generated.detach())
        return 0.5 * ((real - 1.0).square().mean() + fake.square().mean())


def projection_loss(volume: Float[Tensor, "b 1 n n n"], truth: Float[Tensor, "b 1 n n n"]) -> Tensor:
    """Mean absolute difference of the mean projections along D, H and W."""
    return sum((volume - truth).mean(dim=axis).abs().mean() for axis in (2, 3, 4)) / 3.0


def train_step(peer: Peer, optimizers: list[torch.optim.Optimizer], xray, truth, known=None) -> dict[str, float]:
    """One step of the generator, then one of the discriminator on the same volumes; returns the losses."""
    for_generator, for_discriminator = optimizers
    peer.discriminator.requires_grad_(False)
    losses, generated = peer.generator_losses(xray, truth, known)
    for_generator.zero_grad()
    sum(losses.values()).backward()
    for_generator.step()
    peer.discriminator.requires_grad_(True)
    loss = peer.discriminator_loss(xray, truth, generated)
    for_discriminator.zero_grad()
    loss.backward()
    for_discriminator.step()
    return {name: float(value.detach()) for name, value in {**losses, "discriminator": loss}.items()}


def make_optimizers(peer: Peer) -> list[torch.optim.Optimizer]:
    """Adam for the generator and for the discriminator."""
    return [torch.optim.Adam(part.parameters(), **ADAM) for part in (peer.generator, peer.discriminator)]


def resized(xray: Float[Tensor, "b 1 h w"], size: int) -> Float[Tensor, "b 1 n n"]:
    """The X-ray with `size` pixels per side, by block means."""
    return F.adaptive_avg_pool2d(split_unknown(xray.float())[0], size)


def _block(convolution: type[nn.Module], channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        convolution(channels_in, channels, 3, stride=stride, padding=1),
        nn.GroupNorm(min(8, channels), channels),
        nn.LeakyReLU(0.2),
    )
