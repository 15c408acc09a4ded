"""DPM-Solver++ (arXiv:2211.01095) with steps equal in log-SNR, and flow Euler with equal steps to σ = 0.

With 12 steps equal in time one step covers the low-noise end: exact denoisers with a posterior standard deviation of
0.1 sample 0.57 of it, with steps equal in log-SNR 1.02. diffusers' own `use_lu_lambdas` starts at the log-SNR of the
first timestep, minus infinity with zero terminal SNR.
"""

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from common.errors import UserError

FIRST, LAST = -2.0, 5.5  # λ = log(signal / noise): between them the X-ray and the noise determine the sample


class LogSNRSolver(DPMSolverMultistepScheduler):
    """`DPMSolverMultistepScheduler` on the grid: pure noise, then λ from `FIRST` to `LAST` in equal steps."""

    def set_timesteps(self, num_inference_steps: int, device=None) -> None:
        """Sets the grid; merges steps on the same timestep of training."""
        total = self.config.num_train_timesteps
        flow = bool(self.config.use_flow_sigmas)
        if flow:  # signal 1 - t/T, noise t/T
            noise = np.arange(1, total) / total
            ratio = np.log((1.0 - noise) / noise)
        else:
            alphas_cumprod = self.alphas_cumprod.double().clamp(1e-20, 1.0 - 1e-12).numpy()
            ratio = 0.5 * np.log(alphas_cumprod / (1.0 - alphas_cumprod))
        chosen = log_snr_grid(ratio, num_inference_steps)
        if not flow:
            super().set_timesteps(timesteps=chosen, device=device)
            return
        super().set_timesteps(len(chosen), device=device)
        steps = np.array(chosen) + 1
        self.sigmas = torch.from_numpy(np.append(steps / total, 0.0).astype(np.float32))
        self.timesteps = torch.from_numpy(steps).to(device=device, dtype=torch.int64)


def log_snr_grid(ratio: np.ndarray, steps: int) -> list[int]:
    """Distinct positions on a falling curve of log(signal / noise): its end, then equal steps."""
    if steps < 1:
        raise ValueError(f"sampler.steps={steps}: give at least 1")
    wanted = np.linspace(FIRST, min(LAST, float(ratio[0])), steps - 1) if steps > 1 else np.zeros(0)
    nearest = {int(np.abs(ratio - value).argmin()) for value in wanted}
    return sorted(nearest | {len(ratio) - 1}, reverse=True)


class FlowEuler(FlowMatchEulerDiscreteScheduler):
    """`FlowMatchEulerDiscreteScheduler` on the grid σ = 1, 1 - 1/n, …, 1/n, 0."""

    def set_timesteps(self, num_inference_steps: int, device=None) -> None:
        """Sets the grid of n steps, at most the timesteps of training."""
        most = self.config.num_train_timesteps
        if not 1 <= num_inference_steps <= most:
            raise UserError(f"sampler.steps={num_inference_steps}: give 1 to {most}")
        sigmas = np.linspace(1.0, 0.0, num_inference_steps, endpoint=False)
        super().set_timesteps(num_inference_steps, device=device, sigmas=sigmas)
