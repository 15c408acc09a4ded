"""Euler's method on a flow (Lipman et al., "Flow Matching for Generative Modeling", 2023) in equal steps.

diffusers' own grid ends on the quietest noise of training, 1/T, and goes from there to 0: its last evaluation moves
nothing, so 12 steps are 11 and 4 are 3.
"""

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler

from dataset.errors import UserError


class FlowEuler(FlowMatchEulerDiscreteScheduler):
    """`FlowMatchEulerDiscreteScheduler` on the grid σ = 1, 1 - 1/n, …, 1/n, 0."""

    def set_timesteps(self, num_inference_steps: int, device=None) -> None:
        """Sets the grid of n steps.

        Raises:
            UserError: fewer than one step, or more than there are noise levels in training.
        """
        most = self.config.num_train_timesteps
        if not 1 <= num_inference_steps <= most:
            raise UserError(f"sampler.steps={num_inference_steps}: give 1 to {most}")
        sigmas = np.linspace(1.0, 0.0, num_inference_steps, endpoint=False)
        super().set_timesteps(num_inference_steps, device=device, sigmas=sigmas)
