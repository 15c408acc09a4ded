"""Terms on the predicted clean latents, beside the pointwise loss: decoded, and judged by frozen networks.

Each term gives one number a sample, and its gradient reaches the denoiser through the frozen decoder. No network here
is a registered module of the training: no optimizer, average or checkpoint of the generator meets it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.latent.contract import LatentEncoder

Term = Callable[[Tensor, Tensor, LatentEncoder, torch.Generator], Tensor]
"""Predicted and true clean latents `(b, c, d, h, w)`, their encoder and a generator to one loss a sample `(b,)`."""


class GeneratorLosses:
    """Weighted terms, each sample in proportion to the signal in its noisy latents.

    At pure noise the best prediction of the clean latents is the blurred mean of all that fits the X-ray: a term that
    asks for sharpness there asks for a lie. So a sample counts by `signal_t²`, which is 0 at zero terminal SNR.

    Args:
        terms: by name.
        weights: of each of them, above 0.
    """

    def __init__(self, terms: dict[str, Term], weights: dict[str, float]):
        if terms.keys() != weights.keys():
            raise ValueError(f"terms {sorted(terms)} but weights {sorted(weights)}")
        self.terms, self.weights = dict(terms), dict(weights)

    def __call__(
        self,
        predicted: Float[Tensor, "b c d h w"],
        clean: Float[Tensor, "b c d h w"],
        share: Float[Tensor, " b"],
        encoder: LatentEncoder,
        generator: torch.Generator,
        names: list[str] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The weighted sum, and the mean of each term for the log.

        Args:
            share: `signal_t²` of each sample.
            names: of the terms that take part, by default all.
        """
        encoder.to(predicted.device)
        total, values = predicted.new_zeros(()), {}
        for name in self.terms if names is None else names:
            value = (share * self.terms[name](predicted, clean, encoder, generator)).mean()
            total, values[name] = total + self.weights[name] * value, value.detach()
        return total, values

    def active(self, adversarial: bool) -> list[str]:
        """Names of the terms that take part now, with or without the adversarial one."""
        return [name for name in self.terms if adversarial or name != "adversarial"]


def excerpt(
    latents: list[Float[Tensor, "b c d h w"]], slicewise: bool, generator: torch.Generator, slices: int, side: int
) -> list[Tensor]:
    """The same part of each of `latents`: `slices` random slices where they decode one by one, else a random box.

    Args:
        side: of the box, in latent voxels, at most.
    """
    size = latents[0].shape[2:]
    if slicewise:
        index = torch.randperm(size[0], generator=generator)[:slices].sort().values.to(latents[0].device)
        return [x.index_select(2, index) for x in latents]
    starts = [int(torch.randint(max(n - side, 0) + 1, (), generator=generator)) for n in size]
    box = tuple(slice(s, s + side) for s in starts)
    return [x[(slice(None), slice(None), *box)] for x in latents]


def decode_for_loss(encoder: LatentEncoder, latents: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
    """Volumes near [-1, 1], not clipped: clipping would stop the gradient where the prediction is furthest off."""
    return encoder.decode_raw(encoder.colour(latents))


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
