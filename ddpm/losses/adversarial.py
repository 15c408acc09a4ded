"""The adversarial term: a patch discriminator of clean latents with an optimizer of its own.

It stays outside the registered modules. Lightning's own optimization goes on with one optimizer, and DDP, the average
and the generator's checkpoint do not meet it; its gradients are averaged over the processes here.
"""

from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.latent.base import LatentEncoder


class AdversarialTerm:
    """Hinge losses (Lim and Ye, "Geometric GAN", 2017), in float32.

    Args:
        discriminator: latents `(b, c, d, h, w)` to a list whose last tensor holds one score a patch.
        optimizer: partial, completed with its parameters.
        shape: `(c, d, h, w)` of the latents.
        gradient_clip: largest norm of its gradients.

    Raises:
        ValueError: for latents that are too small for its layers.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        optimizer: partial,
        shape: tuple[int, int, int, int],
        gradient_clip: float = 1.0,
    ):
        self.discriminator = discriminator.train().requires_grad_(True)
        try:
            patches = self._judge(torch.zeros(1, *shape)).numel()
        except (RuntimeError, ValueError) as error:
            patches, reason = 0, " ".join(str(error).split())[:120]
        else:
            reason = "no patch is left"
        if not patches:
            raise ValueError(
                f"latents {list(shape)} are too small for model.discriminator ({reason}); "
                "lower model.discriminator.num_layers_d or kernel_size"
            )
        self.optimizer = optimizer(self.discriminator.parameters())
        self.gradient_clip = gradient_clip

    def __call__(
        self, predicted: Tensor, clean: Tensor, encoder: LatentEncoder, generator: torch.Generator
    ) -> Float[Tensor, " b"]:
        """What the generator is asked to lower: minus the score of its prediction."""
        self._place(predicted.device)
        self.discriminator.requires_grad_(False)  # it only passes the gradient on
        score = self._judge(predicted)
        self.discriminator.requires_grad_(True)
        return -score

    def learn(
        self, predicted: Float[Tensor, "b c d h w"], clean: Float[Tensor, "b c d h w"], share: Float[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """One step of the discriminator on detached latents; its loss.

        Args:
            share: weight of each sample, as in the generator's loss.
        """
        self._place(predicted.device)
        with torch.enable_grad():
            real = self._judge(clean.detach(), lambda score: F.relu(1.0 - score))
            fake = self._judge(predicted.detach(), lambda score: F.relu(1.0 + score))
            loss = 0.5 * (share * (real + fake)).mean()
            self.optimizer.zero_grad()
            loss.backward()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.gradient_clip)
        self.optimizer.step()
        return loss.detach()

    def synchronise(self, device: torch.device) -> None:
        """All processes start from the weights of the first."""
        self._place(device)
        if dist.is_available() and dist.is_initialized():
            for tensor in self.discriminator.state_dict().values():
                dist.broadcast(tensor, 0)

    def state_dict(self) -> dict:
        """Weights and the optimizer's moments."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from `state_dict()`."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _judge(self, latents: Tensor, function=lambda score: score) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):  # oneDNN's bfloat16 gradient is wrong on thin latents
            return function(self.discriminator(latents.float())[-1]).mean(dim=(1, 2, 3, 4))

    def _place(self, device: torch.device) -> None:
        if next(self.discriminator.parameters()).device != device:
            self.discriminator.to(device)
            self.optimizer.load_state_dict(self.optimizer.state_dict())  # moves its moments to the parameters' device

    def _average_gradients(self) -> None:
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for parameter in self.discriminator.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
