"""The adversarial term: a patch discriminator of clean latents with its own optimizer.

It is not a registered module: Lightning's automatic optimization has one optimizer, and DDP, the average and the
generator's weights do not include it. So it averages its gradients over the processes itself.
"""

from functools import partial

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.latent.base import LatentEncoder
from vq_gan_3d.adversarial import discriminator_loss, patch_scores


class AdversarialTerm:
    """Hinge losses (`vq_gan_3d.adversarial`) per sample, in float32.

    Args:
        discriminator: latents `(b, c, d, h, w)` to a list whose last tensor holds one score per patch.
        optimizer: partial, completed with its parameters.
        shape: `(c, d, h, w)` of the latents; a `ValueError` if they are too small for its layers.
        gradient_clip: largest norm of its gradients.
    """

    def __init__(
        self, discriminator: nn.Module, optimizer: partial, shape: tuple[int, ...], gradient_clip: float = 1.0
    ):
        self.discriminator = discriminator.train().requires_grad_(True)
        try:
            patches, reason = self._scores(torch.zeros(1, *shape)).numel(), "no patch is left"
        except (RuntimeError, ValueError) as error:
            patches, reason = 0, " ".join(str(error).split())[:120]
        if not patches:
            raise ValueError(
                f"latents {list(shape)} are too small for model.losses.adversarial.discriminator ({reason}); "
                "lower model.losses.adversarial.discriminator.num_layers_d or kernel_size"
            )
        self.optimizer = optimizer(self.discriminator.parameters())
        self.gradient_clip = gradient_clip

    def __call__(
        self, predicted: Tensor, clean: Tensor, encoder: LatentEncoder, generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """Minus the mean score of each prediction; only the prediction gets a gradient."""
        self._place(predicted.device)
        return -_per_sample(self._scores(predicted, frozen=True))

    def learn(
        self, predicted: Float[Tensor, "b c d h w"], clean: Float[Tensor, "b c d h w"], share: Float[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """One step of the discriminator on detached latents; `share` weights each sample. Returns its loss."""
        self._place(predicted.device)
        with torch.enable_grad():
            real, fake = self._scores(clean.detach()), self._scores(predicted.detach())
            loss = (share * discriminator_loss(real, fake, _per_sample)).mean()
            self.optimizer.zero_grad()
            loss.backward()
        if dist.is_available() and dist.is_initialized():
            for parameter in self.discriminator.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.gradient_clip)
        self.optimizer.step()
        return loss.detach()

    def synchronise(self, device: torch.device) -> None:
        """Copies the weights of the first process to all others."""
        self._place(device)
        if dist.is_available() and dist.is_initialized():
            for tensor in self.discriminator.state_dict().values():
                dist.broadcast(tensor, 0)

    def state_dict(self) -> dict:
        """Weights and the optimizer's moments."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restores a `state_dict()`."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _scores(self, latents: Tensor, frozen: bool = False) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):  # oneDNN's bfloat16 gradient is wrong on thin latents
            return patch_scores(self.discriminator, latents.float(), frozen)

    def _place(self, device: torch.device) -> None:
        if next(self.discriminator.parameters()).device != device:
            self.discriminator.to(device)
            self.optimizer.load_state_dict(self.optimizer.state_dict())  # moves its moments to the parameters' device


def _per_sample(scores: Tensor) -> Float[Tensor, " b"]:
    return scores.mean(dim=(1, 2, 3, 4))
