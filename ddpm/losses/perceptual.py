"""The perceptual term (`vq_gan_3d.perceptual`) on decoded slices of the predicted clean latents."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.latent.base import LatentEncoder
from ddpm.losses.latent_terms import excerpt
from vq_gan_3d.perceptual import feature_distances, take_slices


class PerceptualTerm:
    """Distance of deep features between decoded slices of predicted and true latents.

    Args:
        network: `(n, 3, h, w)` in [-1, 1] to a list of feature maps; frozen here.
        slices: per sample; of a decoder in 3D, along each axis of a box.
        side: of that box, in latent voxels.
    """

    def __init__(self, network: nn.Module, slices: int = 2, side: int = 16):
        if slices < 1:
            raise ValueError(f"model.losses.perceptual.slices={slices}: give 1 or more")
        self.network = network.eval().requires_grad_(False)
        self.slices, self.side = slices, side

    def __call__(
        self, predicted: Tensor, clean: Tensor, encoder: LatentEncoder, generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """Mean over layers and slices of the squared distance of unit features."""
        self.network.to(predicted.device)
        a, b = excerpt([predicted, clean], encoder.slicewise, generator, self.slices, self.side)
        a = encoder.decode(a, clip=False)
        with torch.no_grad():
            b = encoder.decode(b, clip=False)
        network, terms = lambda x: [features.float() for features in self.network(x)], []
        for axis in (2,) if encoder.slicewise else (2, 3, 4):
            index = torch.randperm(a.shape[axis], generator=generator)[: self.slices].to(a.device)
            maps = feature_distances(network, take_slices(a, axis, index), take_slices(b, axis, index))
            layers = [m.mean(dim=(1, 2)).view(len(predicted), -1).mean(dim=1) for m in maps]
            terms.append(torch.stack(layers).mean(dim=0))
        return torch.stack(terms).mean(dim=0)
