"""The perceptual term on decoded slices of the predicted clean latents."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.latent.base import LatentEncoder
from ddpm.losses.latent_terms import decode_for_loss, excerpt


class PerceptualTerm:
    """Distance of deep features between decoded slices of the prediction and of the truth.

    Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), without the learned
    weights. Both sides are decoded, so that what the decoder loses is not held against the denoiser.

    Args:
        network: `(n, 3, h, w)` in [-1, 1] to a list of feature maps; frozen here.
        slices: a sample; of a decoder in 3D, along each axis of a box.
        side: of that box, in latent voxels.
    """

    def __init__(self, network: nn.Module, slices: int = 2, side: int = 16):
        if slices < 1:
            raise ValueError(f"model.perceptual_slices={slices}: give 1 or more")
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
            terms.append(self._distance(*(self._planes(x, axis, index) for x in (a, b)), len(predicted)))
        return torch.stack(terms).mean(dim=0)

    def _distance(self, a: Tensor, b: Tensor, samples: int) -> Tensor:
        with torch.no_grad():
            wanted = self.network(b)
        layers = []
        for x, y in zip(self.network(a), wanted, strict=True):
            x, y = F.normalize(x.float(), dim=1), F.normalize(y.float(), dim=1)
            layers.append((x - y).square().sum(dim=1).mean(dim=(1, 2)).view(samples, -1).mean(dim=1))
        return torch.stack(layers).mean(dim=0)

    @staticmethod
    def _planes(volume: Tensor, axis: int, index: Tensor) -> Tensor:
        return volume.index_select(axis, index).movedim(axis, 1).flatten(0, 1).expand(-1, 3, -1, -1)
