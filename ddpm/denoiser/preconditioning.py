"""Preconditioning of a denoiser by a Gaussian around the linear prior.

For clean latents N(g, s²) around a prior g and noisy latents `x_t = signal x_0 + noise ε`, the posterior mean is
`g + c_skip (x_t - signal g)` with `c_skip = signal s² / (signal² s² + noise²)`; the posterior standard deviation is
`c_out = s noise / sqrt(signal² s² + noise²)`: c_skip and c_out of EDM (Karras et al.,
arXiv:2206.00364, table 1) for data with a mean. The clean latents are mean + c_out · network; other targets are linear
in them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddpm.diffusion.noise_schedule import NoiseSchedule, target_of
from ddpm.diffusion.objective import NoiseObjective


class GaussianPreconditioning(nn.Module):
    """Prediction from the posterior mean, and the scale of the network's output, at every timestep.

    Args:
        timesteps, schedule, zero_terminal_snr, prediction: of the `NoiseObjective`; not epsilon, whose scale at pure
            noise is 0.
        shows_pure_noise: the network sees noisy latents without signal, which determine the sample of a distilled
            model; otherwise zeros, since they say nothing about the mean.
    """

    def __init__(
        self,
        timesteps: int,
        schedule: str,
        zero_terminal_snr: bool,
        shows_pure_noise: bool = False,
        prediction: str = "sample",
    ):
        super().__init__()
        if prediction == "epsilon":
            raise ValueError("prediction=epsilon cannot be preconditioned: choose sample, v_prediction or flow")
        self.shows_pure_noise, self.prediction = shows_pure_noise, prediction
        levels = NoiseSchedule(NoiseObjective(timesteps, schedule, prediction, zero_terminal_snr))
        self.register_buffer("signal", levels.signal, persistent=False)
        self.register_buffer("noise", levels.noise, persistent=False)

    def mask_pure_noise(
        self, noisy: Float[Tensor, "b c d h w"], timestep: Int[Tensor, " b"] | Float[Tensor, " b"]
    ) -> Float[Tensor, "b c d h w"]:
        """Noisy latents; zeros at timesteps without signal, unless `shows_pure_noise`."""
        if self.shows_pure_noise:
            return noisy
        has_signal = self.signal[timestep.round().long()] > 0
        return torch.where(has_signal.view(-1, 1, 1, 1, 1), noisy, torch.zeros_like(noisy))

    def forward(
        self,
        noisy: Float[Tensor, "b c d h w"],
        prior: Float[Tensor, "b c d h w"],
        std: Float[Tensor, "b c d h w"],
        timestep: Int[Tensor, " b"] | Float[Tensor, " b"],
        keep: Float[Tensor, " b"] | None,
    ) -> tuple[Float[Tensor, "b c d h w"], Float[Tensor, "b c d h w"]]:
        """The posterior mean of the target and the scale of the network's output, which is added to it.

        `std` is the standard deviation of clean latents around the prior. The scale is the posterior standard
        deviation of the target: c_out for clean latents, c_out / noise for v and flow. `keep` is that of `UNet3D`: a
        dropped prior is 0 with unit variance around it.
        """
        index = timestep.round().long()
        signal, noise = (part[index].to(noisy.dtype).view(-1, 1, 1, 1, 1) for part in (self.signal, self.noise))
        std = std.to(noisy.dtype)
        if keep is not None:
            std = torch.where(keep.view(-1, 1, 1, 1, 1) > 0, std, torch.ones_like(std))
        variance = signal.square() * std.square() + noise.square()  # of the noisy latents
        difference = noisy - signal * prior
        c_skip = signal * std.square() / variance
        clean, eps = prior + c_skip * difference, noise / variance * difference  # posterior means
        scale = std / variance.sqrt()
        scale = scale * noise if self.prediction == "sample" else scale
        return target_of(self.prediction, clean, eps, signal, noise), scale
