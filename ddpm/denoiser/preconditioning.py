"""The posterior mean of latents if all that is left open were Gaussian: what a network that predicts them starts from.

With clean latents N(g, s²) around a guess g, s known place by place, and `x_t = signal x_0 + noise ε`, it is
`g + w (x_t - signal g)` with `w = signal s² / (signal² s² + noise²)`, and `s noise / sqrt(signal² s² + noise²)` is
what stays uncertain. A network that adds to this mean in units of that uncertainty (Karras et al., "Elucidating the
Design Space of Diffusion-Based Generative Models", 2022, with a mean) is exact where there is little noise; one that
predicts clean latents on its own repeats its own error there, step after step.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddpm.diffusion.noise_schedule import NoiseSchedule
from ddpm.diffusion.objective import NoiseObjective


class GaussianPosterior(nn.Module):
    """`mean` and `uncertainty` at every timestep of a schedule; no parameters and nothing to store.

    Args:
        timesteps, schedule, zero_terminal_snr: of `NoiseObjective`.
    """

    def __init__(self, timesteps: int, schedule: str, zero_terminal_snr: bool):
        super().__init__()
        options = {"prediction": "sample", "zero_terminal_snr": zero_terminal_snr}
        levels = NoiseSchedule(NoiseObjective(timesteps=timesteps, schedule=schedule, **options))
        self.register_buffer("signal", levels.signal, persistent=False)
        self.register_buffer("noise", levels.noise, persistent=False)

    def told(
        self, noisy: Float[Tensor, "b c d h w"], timestep: Int[Tensor, " b"] | Float[Tensor, " b"]
    ) -> Float[Tensor, "b c d h w"]:
        """Noisy latents, zeros in place of those without any signal."""
        shown = self.signal[timestep.round().long()] > 0
        return torch.where(shown.view(-1, 1, 1, 1, 1), noisy, torch.zeros_like(noisy))

    def forward(
        self,
        noisy: Float[Tensor, "b c d h w"],
        guess: Float[Tensor, "b c d h w"],
        std: Float[Tensor, "b c d h w"],
        timestep: Int[Tensor, " b"] | Float[Tensor, " b"],
        keep: Float[Tensor, " b"] | None,
    ) -> tuple[Float[Tensor, "b c d h w"], Float[Tensor, "b c d h w"]]:
        """Mean and uncertainty of latents that lie `std` around the guess.

        `keep` as of `UNet3D`: a dropped guess is 0, and the latents vary by 1 around it.
        """
        index = timestep.round().long()
        signal, noise = (part[index].to(noisy.dtype).view(-1, 1, 1, 1, 1) for part in (self.signal, self.noise))
        std = std.to(noisy.dtype)
        if keep is not None:
            std = torch.where(keep.view(-1, 1, 1, 1, 1) > 0, std, torch.ones_like(std))
        total = signal.square() * std.square() + noise.square()
        mean = guess + signal * std.square() / total * (noisy - signal * guess)
        return mean, std * noise / total.sqrt()
