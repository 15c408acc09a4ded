"""The noise schedule on tensors: add noise, regression target, clean sample, loss weight."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddpm.diffusion.objective import NoiseObjective

MOST_WEIGHT = 16.0  # of a level of noise: beyond it the quietest ones would be all that a batch is about


class NoiseSchedule:
    """Signal and noise levels of an objective as tensors, and the algebra between the three predictions.

    A noisy latent is `x_t = signal_t · x_0 + noise_t · ε`, with `signal_t² + noise_t² = 1` but for `flow`, where
    `signal_t + noise_t = 1`.
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
        if self.signal.device != timestep.device:  # moved once: a copy a step would stall a GPU
            self.signal, self.noise = self.signal.to(timestep.device), self.noise.to(timestep.device)
        return tuple(a[timestep].view(-1, 1, 1, 1, 1) for a in (self.signal, self.noise))

    def add_noise(
        self, clean: Float[Tensor, "b c d h w"], eps: Float[Tensor, "b c d h w"], timestep: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c d h w"]:
        """`x_t` of clean latents and noise."""
        signal, noise = self.levels(timestep)
        return signal * clean + noise * eps

    def target(self, clean: Tensor, eps: Tensor, timestep: Int[Tensor, " b"]) -> Tensor:
        """What the denoiser should say: ε, `signal·ε − noise·x_0`, x_0, or ε − x_0."""
        signal, noise = self.levels(timestep)
        prediction = self.objective.prediction
        if prediction == "v_prediction":
            return signal * eps - noise * clean
        return {"epsilon": eps, "sample": clean, "flow": eps - clean}[prediction]

    def clean(self, prediction: Tensor, noisy: Tensor, timestep: Int[Tensor, " b"]) -> Tensor:
        """The clean latents that a prediction implies."""
        signal, noise = self.levels(timestep)
        if self.objective.prediction == "epsilon":
            return (noisy - noise * prediction) / signal
        if self.objective.prediction == "flow":
            return noisy - noise * prediction
        return signal * noisy - noise * prediction if self.objective.prediction == "v_prediction" else prediction

    def weight(self, timestep: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Min-SNR weight in the units of the target: min(SNR, γ) over SNR, SNR + 1 or 1 for ε, v and x_0.

        With `snr_weight` s², min(1 + s²·SNR, 16).
        """
        gamma = self.objective.min_snr_gamma
        if self.objective.snr_weight:
            signal, noise = (a.flatten() for a in self.levels(timestep))
            return (1.0 + self.objective.snr_weight * (signal / noise).square()).clamp(max=MOST_WEIGHT)
        if gamma is None:
            return torch.ones(timestep.shape, device=timestep.device)
        signal, noise = (a.flatten() for a in self.levels(timestep))
        snr = (signal / noise).square()
        capped = snr.clamp(max=gamma)
        if self.objective.prediction == "epsilon":
            return capped / snr
        return capped / (snr + 1.0) if self.objective.prediction == "v_prediction" else capped
