"""What the denoiser learns to predict: noise schedule, target, weight, and the way back to clean latents."""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")


@dataclass(frozen=True)
class NoiseObjective:
    """A diffusers schedule and one of four targets (Ho et al. 2020; Salimans and Ho 2022 for v).

    `flow` is another process as well: straight lines from data to noise, `x_t = (1 - σ) x_0 + σ ε` with σ = (t + 1)/T
    and the target ε - x_0 (Lipman et al., "Flow Matching for Generative Modeling", 2023). `schedule` and
    `zero_terminal_snr` do not touch it: it ends on pure noise by construction.

    Args:
        timesteps: T.
        schedule: diffusers' name (`squaredcos_cap_v2` is the cosine schedule of Nichol and Dhariwal 2021).
        prediction: `epsilon`, `v_prediction`, `sample` or `flow`.
        zero_terminal_snr: the last timestep is pure noise (Lin et al., "Common Diffusion Noise Schedules and Sample
            Steps Are Flawed", 2024).
        min_snr_gamma: caps the weight of easy timesteps (Hang et al., "Efficient Diffusion Training via Min-SNR
            Weighting Strategy", 2023); None weighs all alike.
        snr_weight: s² weighs errors of clean latents by 1 + s²·SNR, at most 16: in units of what stays uncertain of
            latents that lie s around their guess (`ddpm.denoiser.preconditioning`); None weighs all alike.
        timestep_power: 1 draws timesteps uniformly; k > 1 draws T·u^(1/k), more often the noisy ones.
        noise_first: share of the training, at its start, in which all timesteps are the noisiest one: the network
            learns to read the X-ray, as in regression, before it learns to denoise.

    Raises:
        ValueError: for an unknown prediction, for what zero terminal SNR rules out (epsilon, min-SNR weights), and for
            weights of another prediction, or not above 0.
    """

    timesteps: int = 1000
    schedule: str = "squaredcos_cap_v2"
    prediction: str = "v_prediction"
    zero_terminal_snr: bool = True
    min_snr_gamma: float | None = None
    snr_weight: float | None = None
    timestep_power: float = 1.0
    noise_first: float = 0.0

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"model.prediction={self.prediction}: choose one of {', '.join(PREDICTIONS)}")
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError(
                "model.zero_terminal_snr=true with model.prediction=epsilon: the last step has nothing to learn from; "
                "use model.prediction=v_prediction or sample, or model.zero_terminal_snr=false"
            )
        if self.prediction == "flow" and self.min_snr_gamma is not None:
            raise ValueError(
                f"model.min_snr_gamma={self.min_snr_gamma:g} with model.prediction=flow: set one of them to null or "
                "another target"
            )
        if self.zero_terminal_snr and self.min_snr_gamma is not None:
            raise ValueError(
                f"model.min_snr_gamma={self.min_snr_gamma:g} with model.zero_terminal_snr=true: the step where "
                "sampling starts would weigh nothing; set one of them to null or false"
            )
        weighed_otherwise = self.prediction != "sample" or self.min_snr_gamma is not None
        if self.snr_weight is not None and (weighed_otherwise or not 0.0 < self.snr_weight < float("inf")):
            raise ValueError(
                f"model.snr_weight={self.snr_weight:g}: give null, or above 0 with model.prediction=sample and "
                "model.min_snr_gamma=null"
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
        """One timestep in 0 … T-1, when `progress` of the training, 0 to 1, is done."""
        u = torch.rand((), generator=generator, dtype=torch.float64).item()
        if progress < self.noise_first:
            return self.timesteps - 1
        return min(int(self.timesteps * u ** (1.0 / self.timestep_power)), self.timesteps - 1)
