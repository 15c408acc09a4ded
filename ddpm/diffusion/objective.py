"""The training objective: noise schedule, prediction target, loss weighting and distribution of timesteps."""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")


@dataclass(frozen=True)
class NoiseObjective:
    """A diffusers schedule and one of four targets (Ho et al. 2020; Salimans and Ho 2022 for v).

    `flow` has its own process: straight lines from data to noise, `x_t = (1 - σ) x_0 + σ ε` with σ = (t + 1)/T, and
    the target ε - x_0 (Lipman et al., "Flow Matching", arXiv:2210.02747). It ends on pure noise;
    `schedule` and `zero_terminal_snr` have no effect. `NoiseSchedule.weight` is the loss weight, 1 by default (Hang et
    al., "Efficient Diffusion Training via Min-SNR Weighting", arXiv:2303.09556). Zero terminal SNR follows Lin et al.,
    "Common Diffusion Noise Schedules and Sample Steps Are Flawed" (arXiv:2305.08891).
    """

    timesteps: int = 1000  # T
    schedule: str = "squaredcos_cap_v2"  # diffusers' name of the cosine schedule of Nichol and Dhariwal 2021
    prediction: str = "v_prediction"  # one of PREDICTIONS
    zero_terminal_snr: bool = True  # the last timestep is pure noise
    min_snr_gamma: float | None = None  # γ, the largest weight of low-noise timesteps in units of clean latents
    snr_weight: float | None = None  # s² of the weight 1 + s²·SNR = s²/c_out², at most 16, for `sample`
    timestep_power: float = 1.0  # k > 1 draws T·u^(1/k), high-noise timesteps more often
    pure_noise_warmup: float = 0.0  # first share of the training in which every timestep is T-1, as in regression

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
