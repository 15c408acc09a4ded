"""The term that keeps the output of a frozen CT classifier."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.latent.base import LatentEncoder
from ddpm.losses.latent_terms import excerpt


class ClassificationTerm:
    """Difference of a frozen classifier's output between the generated and the true volume.

    The target is the score of the true volume, not its label, which some cases lack.

    Args:
        classifier: volumes `(b, 1, D, H, W)` in [-1, 1] to logits `(b,)`; frozen here. One with a true `slicewise`
            averages over slices.
        slices: number of slices if both classifier and decoder are slicewise; else whole volumes are decoded.
    """

    def __init__(self, classifier: nn.Module, slices: int = 8):
        self.classifier, self.slices = classifier.eval().requires_grad_(False), slices

    def __call__(
        self, predicted: Tensor, clean: Tensor, encoder: LatentEncoder, generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """Kullback–Leibler divergence of the two Bernoulli probabilities."""
        self.classifier.to(predicted.device)
        if encoder.slicewise and getattr(self.classifier, "slicewise", False):
            predicted, clean = excerpt([predicted, clean], True, generator, self.slices, 0)
        with torch.no_grad():
            target = self._logits(encoder.decode(clean, clip=False))
            probability = target.sigmoid()
            entropy = F.binary_cross_entropy_with_logits(target, probability, reduction="none")
        logits = self._logits(encoder.decode(predicted, clip=False))
        return F.binary_cross_entropy_with_logits(logits, probability, reduction="none") - entropy

    def _logits(self, volume: Tensor) -> Tensor:
        with torch.autocast(volume.device.type, enabled=False):  # oneDNN's bfloat16 gradient is wrong on thin volumes
            return self.classifier(volume.float()).float()
