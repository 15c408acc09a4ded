"""The training objective: noise schedule, prediction target, loss weighting and distribution of timesteps."""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")


@dataclass(frozen=True)
class NoiseObjective:
    """A diffusers schedule and one of four targets (Ho et al. 2020; Salimans and Ho 2022 for v).

    `flow` has its own process: straight lines from data to noise, `x_t = (1 - σ) x_0 + σ ε` with σ = (t + 1)/T, and
    the target ε - x_0 (Lipman et al., "Flow Matching for Generative Modeling", 2023). It ends on pure noise;
    `schedule` and `zero_terminal_snr` have no effect.

    Args:
        timesteps: T.
        schedule: diffusers' name (`squaredcos_cap_v2` is the cosine schedule of Nichol and Dhariwal 2021).
        prediction: `epsilon`, `v_prediction`, `sample` or `flow`.
        zero_terminal_snr: the last timestep is pure noise (Lin et al., "Common Diffusion Noise Schedules and Sample
            Steps Are Flawed", 2024).
        min_snr_gamma: γ of min-SNR loss weighting, which caps the weight of low-noise timesteps (Hang et al.,
            "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023); None for equal weights.
        snr_weight: s² of the loss weight 1 + s²·SNR, at most 16, for prediction of clean latents. This is 1/c_out² in
            units of s² for latents with standard deviation s around their prior (`ddpm.denoiser.preconditioning`).
            None for equal weights.
        timestep_power: 1 draws timesteps uniformly; k > 1 draws T·u^(1/k), high-noise timesteps more often.
        pure_noise_warmup: first share of the training in which every timestep is T-1, so that the network learns to
            use the X-ray, as in regression, before it learns to denoise.
    """

    timesteps: int = 1000
    schedule: str = "squaredcos_cap_v2"
    prediction: str = "v_prediction"
    zero_terminal_snr: bool = True
    min_snr_gamma: float | None = None
    snr_weight: float | None = None
    timestep_power: float = 1.0
    pure_noise_warmup: float = 0.0

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"model.objective.prediction={self.prediction}: choose one of {', '.join(PREDICTIONS)}")
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError(
                "model.objective.zero_terminal_snr=true with prediction=epsilon: the last timestep has no signal; set "
                "model.objective.prediction=v_prediction or sample, or zero_terminal_snr=false"
            )
        if self.min_snr_gamma is not None and (self.zero_terminal_snr or self.prediction == "flow"):
            raise ValueError(
                f"model.objective.min_snr_gamma={self.min_snr_gamma:g}: needs zero_terminal_snr=false (else the first "
                "timestep of sampling has weight 0) and another prediction than flow; or set it to null"
            )
        unweighable = self.prediction != "sample" or self.min_snr_gamma is not None
        if self.snr_weight is not None and (unweighable or not 0.0 < self.snr_weight < float("inf")):
            raise ValueError(
                f"model.objective.snr_weight={self.snr_weight:g}: give null, or above 0 with prediction=sample and "
                "min_snr_gamma=null"
            )

    def scheduler(self) -> SchedulerMixin:
        """The diffusers scheduler of this objective; samplers are made from its config."""
        if self.prediction == "flow":
            return FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.timesteps)
        return DDPMScheduler(
            num_train_timesteps=self.timesteps,
            beta_schedule=self.schedule,
            prediction_type=self.prediction,
            rescale_betas_zero_snr=self.zero_terminal_snr,
            timestep_spacing="trailing",
            clip_sample=False,  # the default clips latents of unit variance to [-1, 1]
        )

    def draw_timestep(self, generator: torch.Generator, progress: float = 1.0) -> int:
        """One timestep in 0 … T-1, at `progress` 0 to 1 of the training."""
        u = torch.rand((), generator=generator, dtype=torch.float64).item()
        if progress < self.pure_noise_warmup:
            return self.timesteps - 1
        return min(int(self.timesteps * u ** (1.0 / self.timestep_power)), self.timesteps - 1)
