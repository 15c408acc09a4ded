"""The noise schedule on tensors: noisy latents, regression target, clean latents, loss weight."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddpm.diffusion.objective import NoiseObjective

MAX_WEIGHT = 16.0  # loss weight of a timestep


class NoiseSchedule:
    """Signal and noise levels of an objective at every timestep, as tensors.

    Noisy latents are `x_t = signal_t x_0 + noise_t ε`, with `signal_t² + noise_t² = 1` (arXiv:2006.11239, eq. 4); for
    `flow`, `signal_t + noise_t = 1`.
    """

    def __init__(self, objective: NoiseObjective):
        self.objective = objective
        if objective.prediction == "flow":
            noise = torch.arange(1, objective.timesteps + 1, dtype=torch.float64) / objective.timesteps
            self.signal, self.noise = (1.0 - noise).float(), noise.float()
        else:
            alphas_cumprod = objective.scheduler().alphas_cumprod.double()
            self.signal, self.noise = alphas_cumprod.sqrt().float(), (1.0 - alphas_cumprod).sqrt().float()

    def levels(self, timestep: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """`signal_t` and `noise_t`, shaped to multiply `(b, c, d, h, w)`."""
        if self.signal.device != timestep.device:  # moved once; a copy in every step would stall a GPU
            self.signal, self.noise = self.signal.to(timestep.device), self.noise.to(timestep.device)
        return tuple(a[timestep].view(-1, 1, 1, 1, 1) for a in (self.signal, self.noise))

    def add_noise(
        self, clean: Float[Tensor, "b c d h w"], eps: Float[Tensor, "b c d h w"], timestep: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c d h w"]:
        """`x_t` of clean latents and noise."""
        signal, noise = self.levels(timestep)
        return signal * clean + noise * eps

    def target(self, clean: Tensor, eps: Tensor, timestep: Int[Tensor, " b"]) -> Tensor:
        """Target of the prediction."""
        return target_of(self.objective.prediction, clean, eps, *self.levels(timestep))

    def clean(self, prediction: Tensor, noisy: Tensor, timestep: Int[Tensor, " b"]) -> Tensor:
        """Clean latents that a prediction implies."""
        return clean_from_prediction(self.objective.prediction, prediction, noisy, *self.levels(timestep))

    def weight(self, timestep: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Loss weight in the units of the target.

        With `min_snr_gamma` γ, min(SNR, γ) over SNR, SNR + 1 or 1 for ε, v and x_0 (arXiv:2303.09556).
        With `snr_weight` s², min(1 + s²·SNR, 16). Otherwise 1.
        """
        gamma, deviation = self.objective.min_snr_gamma, self.objective.snr_weight
        if gamma is None and deviation is None:
            return torch.ones(timestep.shape, device=timestep.device)
        signal, noise = (a.flatten() for a in self.levels(timestep))
        snr = (signal / noise).square()
        if deviation is not None:
            return (1.0 + deviation * snr).clamp(max=MAX_WEIGHT)
        capped = snr.clamp(max=gamma)
        if self.objective.prediction == "epsilon":
            return capped / snr
        return capped / (snr + 1.0) if self.objective.prediction == "v_prediction" else capped


def target_of(kind: str, clean: Tensor, eps: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Target of `kind`: ε, `v = signal ε − noise x_0` (Salimans and Ho 2022, eq. 11), x_0, or ε − x_0."""
    if kind == "v_prediction":
        return signal * eps - noise * clean
    return {"epsilon": eps, "sample": clean, "flow": eps - clean}[kind]


def clean_from_prediction(
    kind: str, prediction: Tensor, noisy: Tensor, signal: Tensor | float, noise: Tensor | float
) -> Tensor:
    """Clean latents that a prediction of `kind` for noisy latents `signal x_0 + noise ε` implies."""
    if kind == "sample":
        return prediction
    if kind == "flow":
        return noisy - noise * prediction
    if kind == "epsilon":
        return (noisy - noise * prediction) / signal
    if kind == "v_prediction":
        return signal * noisy - noise * prediction
    raise ValueError(f"prediction_type={kind}: choose sample, epsilon, v_prediction or flow")


def prediction_from_clean(
    kind: str, clean: Tensor, noisy: Tensor, signal: Tensor | float, noise: Tensor | float
) -> Tensor:
    """The inverse of `clean_from_prediction`; `noise` is above 0."""
    if kind == "sample":
        return clean
    if kind == "flow":
        return (noisy - clean) / noise
    if kind == "epsilon":
        return (noisy - signal * clean) / noise
    if kind == "v_prediction":
        return (signal * noisy - clean) / noise
    raise ValueError(f"prediction_type={kind}: choose sample, epsilon, v_prediction or flow")
