"""The perceptual term (`vq_gan_3d.perceptual`) on decoded slices of the predicted clean latents."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.latent.base import LatentEncoder
from ddpm.losses.latent_terms import decode_for_loss, excerpt
from vq_gan_3d.perceptual import feature_distances, take_slices


class PerceptualTerm:
    """Distance of deep features between decoded slices of the prediction and of the truth.

    Both sides are decoded, so the decoder's own reconstruction error does not count.

    Args:
        network: `(n, 3, h, w)` in [-1, 1] to a list of feature maps; frozen here.
        slices: a sample; of a decoder in 3D, along each axis of a box.
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
        a = decode_for_loss(encoder, a)
        with torch.no_grad():
            b = decode_for_loss(encoder, b)
        terms = []
        for axis in (2,) if encoder.slicewise else (2, 3, 4):
            index = torch.randperm(a.shape[axis], generator=generator)[: self.slices].to(a.device)
            terms.append(self._distance(*(take_slices(x, axis, index) for x in (a, b)), len(predicted)))
        return torch.stack(terms).mean(dim=0)

    def _distance(self, a: Tensor, b: Tensor, samples: int) -> Tensor:
        with torch.no_grad():
            wanted = [y.float() for y in self.network(b)]
        maps = feature_distances([x.float() for x in self.network(a)], wanted)
        return torch.stack([m.mean(dim=(1, 2)).view(samples, -1).mean(dim=1) for m in maps]).mean(dim=0)
