"""The term that keeps the output of a frozen CT classifier."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.latent.base import LatentEncoder
from ddpm.losses.latent_terms import decode_for_loss, excerpt


class ClassificationTerm:
    """A frozen classifier should say of the generated volume what it says of the true one.

    The truth's own score is the target, not its label: it is known for every case, and a classifier that errs on the
    truth teaches nothing wrong.

    Args:
        classifier: volumes `(b, 1, D, H, W)` in [-1, 1] to logits `(b,)`; frozen here. If its `slicewise` is true it
            averages over slices and is shown some of them.
        slices: shown to a slicewise classifier where the decoder works in slices too; all else decodes whole volumes.
    """

    def __init__(self, classifier: nn.Module, slices: int = 8):
        self.classifier, self.slices = classifier.eval().requires_grad_(False), slices

    def __call__(
        self, predicted: Tensor, clean: Tensor, encoder: LatentEncoder, generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """Kullback–Leibler divergence of the two Bernoulli probabilities, 0 where they agree."""
        self.classifier.to(predicted.device)
        if encoder.slicewise and getattr(self.classifier, "slicewise", False):
            predicted, clean = excerpt([predicted, clean], True, generator, self.slices, 0)
        with torch.no_grad():
            wanted = self._logits(decode_for_loss(encoder, clean))
            probability = wanted.sigmoid()
            entropy = F.binary_cross_entropy_with_logits(wanted, probability, reduction="none")
        given = self._logits(decode_for_loss(encoder, predicted))
        return F.binary_cross_entropy_with_logits(given, probability, reduction="none") - entropy

    def _logits(self, volume: Tensor) -> Tensor:
        with torch.autocast(volume.device.type, enabled=False):  # small volumes meet oneDNN's wrong bfloat16 gradient
            return self.classifier(volume.float()).float()
