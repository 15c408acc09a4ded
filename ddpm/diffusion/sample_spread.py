"""The standard deviation of samples, of which samples 2k and 2k + 1 may have opposite noise (`sample_noise`)."""

import torch
from jaxtyping import Float
from torch import Tensor


def independent(samples: Float[Tensor, " s *shape"], antithetic: bool) -> Float[Tensor, " k *shape"]:
    """The samples that are independent of each other: one of each pair of opposite noise."""
    return samples[::2] if antithetic else samples


def sample_variance(samples: Float[Tensor, " s *shape"], antithetic: bool) -> Float[Tensor, "*shape"]:
    """Unbiased variance of one sample: half the mean squared difference of independent samples.

    Without pairs this is the variance with the divisor s - 1. With `antithetic` the differences within the pairs
    (0, 1), (2, 3), … are left out, so a correlation of any size within a pair causes no bias; with exactly opposite
    pairs nothing is lost. Two opposite samples hold no independent ones: the result is a quarter of their squared
    difference, which is unbiased if their errors are exactly opposite, as under a linear denoiser.

    The values keep their unit, squared. Raises ValueError for fewer than two samples.
    """
    count = len(samples)
    if count < 2:
        raise ValueError(f"{count} sample: a variance needs at least 2")
    pairs = count // 2 if antithetic else 0
    within = sum((samples[2 * k] - samples[2 * k + 1]).square() for k in range(pairs))
    if antithetic and count == 2:
        return within / 4.0
    everything = count * samples.var(dim=0, correction=0) * count  # over all differences
    differences = count * (count - 1) // 2 - pairs
    return ((everything - within) / (2.0 * differences)).clamp(min=0.0)


def squared_deviations(samples: Float[Tensor, " s *shape"], antithetic: bool) -> Float[Tensor, " k *shape"]:
    """Estimates of the variance of one sample, one of each pair of opposite noise or of each sample.

    Those of pairs are independent; if the pairs are not exactly opposite, all are too small by a common factor. Those
    of n unpaired samples depend on each other through their mean (`variance_of_estimate`). Raises ValueError for fewer
    than two samples.
    """
    count = len(samples)
    if count < 2:
        raise ValueError(f"{count} sample: a variance needs at least 2")
    if antithetic:
        last = count - count % 2
        return (samples[0:last:2] - samples[1:last:2]).square() / 4.0
    return (samples - samples.mean(dim=0)).square() * (count / (count - 1))


def variance_of_estimate(parts: Float[Tensor, " k *shape"], antithetic: bool) -> Float[Tensor, "*shape"]:
    """Unbiased variance of the mean of `squared_deviations`, for Gaussian samples without pairs.

    Of n such samples the squared deviations have the variance 2 (n - 2) / (n - 1) and their mean 2 / (n - 1), in units
    of the squared variance of a sample.
    """
    count = len(parts)
    return parts.var(dim=0) / count * (1.0 if antithetic else (count - 1) / (count - 2))


def variance_of_mean(samples: Float[Tensor, " s *shape"], antithetic: bool) -> Float[Tensor, "*shape"]:
    """Unbiased variance of the mean of the samples; below 0 where pairs are more than opposite by chance.

    `(s v + 2 Σ c_k) / s²` with the variance v of one sample and the covariance `c_k = v - d_k² / 2` of a pair with the
    difference d_k; 0 for two opposite samples, whose v rests on that assumption.
    """
    count, variance = len(samples), sample_variance(samples, antithetic)
    pairs = count // 2 if antithetic else 0
    within = sum((samples[2 * k] - samples[2 * k + 1]).square() for k in range(pairs))
    return ((count + 2 * pairs) * variance - within) / count**2


def sample_spread(samples: Float[Tensor, " s *shape"], antithetic: bool) -> Float[Tensor, "*shape"]:
    """Standard deviation of one sample at every position, the root of `sample_variance`.

    A mean over positions of the variance is unbiased; that of the root is below the true standard deviation for few
    samples, so a single number for a volume is `root_mean_square` of the spread.
    """
    return sample_variance(samples, antithetic).sqrt()


def root_mean_square(values: Float[Tensor, "..."]) -> float:
    """The root of the mean of the squares."""
    return float(torch.as_tensor(values).double().square().mean().sqrt())
