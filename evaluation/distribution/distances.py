"""Fréchet distance and MMD between features of generated and real volumes.

They evaluate a population: a model that ignores its X-ray can score well.
"""

import logging
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

log = logging.getLogger(__name__)

FEW_CASES = 500  # with fewer, the Fréchet distance of two halves of one population is far from zero


def frechet_distance(first: Float[Tensor, "n f"], second: Float[Tensor, "m f"]) -> float:
    """`|μ₁ - μ₂|² + Tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)` (arXiv:1706.08500), with unbiased covariances, in float64.

    With centred features A and B the last trace is the nuclear norm of `A Bᵀ / √((n - 1)(m - 1))`, which needs no
    matrix root and is exact with fewer cases than features. ValueError for features that are not finite.
    """
    first, second = _finite(first), _finite(second)
    means = first.mean(dim=0), second.mean(dim=0)
    centred = []
    for features, mean in zip((first, second), means, strict=True):
        scaled = (features - mean) / (len(features) - 1) ** 0.5
        # R of a QR decomposition has the same products with fewer rows
        centred.append(torch.linalg.qr(scaled, mode="r")[1] if len(scaled) > scaled.shape[1] else scaled)
    root = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    value = (means[0] - means[1]).square().sum() + sum(c.square().sum() for c in centred) - 2.0 * root
    return max(0.0, float(value))


def mmd(first: Float[Tensor, "n f"], second: Float[Tensor, "m f"]) -> float:
    """Squared maximum mean discrepancy with the kernel `(x·y / f + 1)³`, unbiased (Bińkowski et al. 2018, "KID").

    Its expectation does not depend on the number of cases; it may be slightly negative.
    """
    first, second = _finite(first), _finite(second)
    size = first.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / size + 1.0).pow(3)

    def within(features: Tensor) -> Tensor:
        values, count = kernel(features, features), len(features)
        return (values.sum() - values.diagonal().sum()) / (count * (count - 1))

    return float(within(first) + within(second) - 2.0 * kernel(first, second).mean())


def population(extractor, volumes: Iterable[tuple[Float[Tensor, "d h w"], Sequence[float]]]) -> dict[str, Tensor]:
    """Features `{part: (n, s, f)}` of volumes in HU with their spacing, read one by one."""
    found: dict[str, list[Tensor]] = {}
    for volume, spacing in volumes:
        for part, features in extractor.features(volume, spacing).items():
            found.setdefault(part, []).append(features)
    return {part: torch.stack(features) for part, features in found.items()}


def no_extractor(device: str = "cpu") -> None:
    """None, for `extractor=none`: no distribution metric is measured."""


def compare_populations(generated: dict[str, Float[Tensor, "n s f"]], real: dict[str, Float[Tensor, "n s f"]]) -> dict:
    """`{"frechet": {part: value}, "mmd": …, "reference": …, "cases": n, "warning": …}`; plain JSON.

    A part is `volume` for a 3D extractor, a plane for a 2D one; `s` counts the slices of a case. `reference` is the
    Fréchet distance between even and odd real cases: a value near it shows no difference. A distance is None with
    fewer than two cases on a side.
    """
    cases = len(next(iter(real.values())))
    result = {"cases": cases, "frechet": {}, "mmd": {}, "reference": {}, "warning": None}
    for part, features in real.items():
        result["frechet"][part] = _rounded(frechet_distance, generated[part], features)
        result["mmd"][part] = _rounded(mmd, generated[part], features)
        result["reference"][part] = _rounded(frechet_distance, features[::2], features[1::2])
    if cases < FEW_CASES:
        result["warning"] = (
            f"{cases} cases: a Fréchet distance of fewer than {FEW_CASES} depends on their number; compare it only "
            "with the reference and with results of as many cases"
        )
        log.warning("%s", result["warning"])
    return result


def _rounded(distance, first: Tensor, second: Tensor) -> float | None:
    if min(len(first), len(second)) < 2:
        return None
    return round(distance(first.flatten(0, 1), second.flatten(0, 1)), 6)


def _finite(features: Tensor) -> Tensor:
    if not torch.isfinite(features).all():
        raise ValueError("the features contain NaN or infinity")
    return features.double()
