"""Training of the VQ-GAN: two optimizers by hand, codebook health, and a stop that names its cause."""

from collections.abc import Callable
from functools import partial

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from monai.losses import PatchAdversarialLoss
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from vq_gan_3d.autoencoder import VQGAN3D
from vq_gan_3d.codebook import perplexity


class TrainingStopped(RuntimeError):
    """Training went wrong in a way that more steps will not mend; the message names cause and remedy."""


class VQGANModule(pl.LightningModule):
    """L1 reconstruction, commitment, optional 2.5D perceptual and patch-adversarial terms.

    Batches are dicts with `ct` `(b, 1, D, H, W)` in [-1, 1], `index` and `step`.

    Args:
        model: the autoencoder that is trained.
        optimizer: partial, completed with the autoencoder's parameters.
        num_batches: length of the training in batches, for the learning rate (linear warm-up, cosine to zero).
        discriminator: judges volumes from batch `discriminator_iter_start` on; None trains without.
        discriminator_optimizer: partial, for the discriminator.
        perceptual: `(volume, target, generator) -> loss`, or None.
        collapse_perplexity: fewer codes in use than this over `collapse_patience` batches stops the training.
        metrics: name to function of (reconstruction, target), both in [-1, 1]; logged on validation.
        header: plain JSON that is written into every checkpoint beside the model's config (protocol of the data).
        skip_nonfinite: leaves out batches with values that are not finite, before the codebook learns from them.
    """

    def __init__(
        self,
        model: VQGAN3D,
        optimizer: partial,
        num_batches: int,
        warmup_batches: int = 20,
        commitment_weight: float = 0.25,
        discriminator: nn.Module | None = None,
        discriminator_optimizer: partial | None = None,
        discriminator_iter_start: int = 0,
        adversarial_weight: float = 0.1,
        perceptual: Callable | None = None,
        perceptual_weight: float = 0.1,
        gradient_clip: float = 1.0,
        collapse_perplexity: float = 2.0,
        collapse_patience: int = 200,
        metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
        header: dict | None = None,
        seed: int = 0,
        skip_nonfinite: bool = False,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.skip_nonfinite, self.left_out = skip_nonfinite, []
        self.model, self.discriminator = model, discriminator
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer
        self.num_batches, self.warmup_batches = num_batches, warmup_batches
        self.commitment_weight = commitment_weight
        self.discriminator_iter_start, self.adversarial_weight = discriminator_iter_start, adversarial_weight
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.gradient_clip = gradient_clip
        self.collapse_perplexity, self.collapse_patience = collapse_perplexity, collapse_patience
        self.metrics, self.header, self.seed = metrics or {}, header or {}, seed
        self.adversarial_loss = PatchAdversarialLoss(criterion="hinge", no_activation_leastsq=True)
        # Lightning's global_step counts optimizer steps, two a batch here: batches are counted by hand, and saved
        self.register_buffer("batches_done", torch.zeros((), dtype=torch.long))
        self.register_buffer("batches_collapsed", torch.zeros((), dtype=torch.long))

    def configure_model(self) -> None:
        """Spreads the weights over the processes where the strategy has a device mesh (FSDP)."""
        if self.device_mesh is None or self.sharded:
            return
        networks = [self.model.encoder, self.model.decoder, self.model, self.discriminator]
        for network in networks:
            if network is not None:
                fully_shard(network, mesh=self.device_mesh["data_parallel"], reshard_after_forward=True)

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the weights: then all of them take part in every forward pass."""
        return isinstance(self.model, FSDPModule)

    def configure_optimizers(self):
        """Autoencoder first, then the discriminator if there is one; the codebook learns by moving averages."""
        optimizers = [self.optimizer(self.model.parameters())]
        if self.discriminator is not None:
            optimizers.append(self.discriminator_optimizer(self.discriminator.parameters()))
        batches = (self.num_batches, self.num_batches - self.discriminator_iter_start)  # that each takes part in
        schedules = [
            get_cosine_schedule_with_warmup(optimizer, self.warmup_batches, batches[i])
            for i, optimizer in enumerate(optimizers)
        ]
        return optimizers, schedules

    def training_step(self, batch: dict, batch_idx: int) -> None:
        """One step of the autoencoder, then one of the discriminator on the same volumes."""
        optimizers, schedules = self.optimizers(), self.lr_schedulers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        schedules = schedules if isinstance(schedules, list) else [schedules]
        adversarial = self.discriminator is not None and int(self.batches_done) >= self.discriminator_iter_start

        volume = batch["ct"]
        if self._left_out(batch):
            return
        out = self.model(volume)
        terms = {"l1": F.l1_loss(out.volume, volume), "commitment": out.commitment}
        loss = terms["l1"] + self.commitment_weight * terms["commitment"]
        if self.perceptual is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.batches_done))
            terms["perceptual"] = self.perceptual(out.volume, volume, generator)
            loss = loss + self.perceptual_weight * terms["perceptual"]
        if adversarial:
            # the discriminator only passes the gradient on here; its own step comes below
            self.discriminator.requires_grad_(False)
            judged = self.discriminator(out.volume)[-1].float()
            self.discriminator.requires_grad_(True)
            terms["adversarial"] = self.adversarial_loss(judged, target_is_real=True, for_discriminator=False)
            loss = loss + self.adversarial_weight * terms["adversarial"]
        self._check(loss, terms, batch)
        self._step(optimizers[0], schedules[0], loss, self.model)

        if adversarial:
            real = self.discriminator(volume.detach())[-1].float()
            fake = self.discriminator(out.volume.detach())[-1].float()
            terms["discriminator"] = 0.5 * (
                self.adversarial_loss(real, target_is_real=True, for_discriminator=True)
                + self.adversarial_loss(fake, target_is_real=False, for_discriminator=True)
            )
            self._step(optimizers[1], schedules[1], terms["discriminator"], self.discriminator)

        spread, used = perplexity(out.indices, self.model.codebook.n_codes)
        self._check_collapse(spread)
        self.batches_done += 1
        self.log_dict({f"train/{k}": v.detach() for k, v in terms.items()}, sync_dist=True)
        self.log_dict(
            {"codebook/perplexity": spread, "codebook/used": used, "train/lr": schedules[0].get_last_lr()[0]}
        )
        self.log("loss", loss.detach(), prog_bar=True, logger=False, sync_dist=True)

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Reconstruction on whole validation volumes."""
        volume = batch["ct"]
        out = self.model(volume)
        reconstruction = out.volume.float().clamp(-1, 1)
        size = volume.shape[0]
        self.log("val/l1", F.l1_loss(reconstruction, volume), prog_bar=True, batch_size=size, sync_dist=True)
        for name, metric in self.metrics.items():
            self.log(f"val/{name}", metric(reconstruction, volume).mean(), batch_size=size, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Writes what rebuilds the model: plain JSON, no code."""
        config = {k: v for k, v in dict(self.model.config).items() if not k.startswith("_")}
        checkpoint["left_out"] = list(self.left_out)
        checkpoint["header"] = {
            "stage": "vqgan",
            "components": {"vqgan": {"class": "VQGAN3D", "config": config, "prefix": "model."}},
            **self.header,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Lightning's hook."""
        self.left_out = list(checkpoint.get("left_out", []))

    def _step(self, optimizer, schedule, loss: Tensor, module: nn.Module) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        # Lightning refuses gradient_clip_val with manual optimization
        torch.nn.utils.clip_grad_norm_(module.parameters(), self.gradient_clip)
        optimizer.step()
        schedule.step()

    def _left_out(self, batch: dict) -> bool:
        """Whether no process is to learn from this batch, for the volumes of one of them are not finite."""
        if not self.skip_nonfinite:
            return False
        bad = not bool(torch.isfinite(batch["ct"]).all())
        if bad:
            self.left_out.append(f"batch {int(self.batches_done)} (cases {_cases(batch)})")
        if self.trainer.world_size > 1:
            bad = self.trainer.strategy.reduce_boolean_decision(bad, all=False)
        if bad:
            self.batches_done += 1
        return bad

    def _check(self, loss: Tensor, terms: dict[str, Tensor], batch: dict) -> None:
        if not torch.isfinite(loss):
            values = ", ".join(f"{name} {float(value):g}" for name, value in terms.items())
            raise TrainingStopped(
                f"the loss is not finite at batch {int(self.batches_done)} (cases {_cases(batch)}; {values}): look at "
                "these cases, lower model.lr or set model.precision=32; model.skip_nonfinite=true leaves out volumes "
                "that are not finite; the last checkpoint is untouched"
            )

    def _check_collapse(self, spread: Tensor) -> None:
        collapsed = spread < self.collapse_perplexity
        self.batches_collapsed.copy_(torch.where(collapsed, self.batches_collapsed + 1, 0))
        if int(self.batches_collapsed) >= self.collapse_patience:
            raise TrainingStopped(
                f"the codebook collapsed: perplexity {float(spread):.2f} below {self.collapse_perplexity:g} for "
                f"{self.collapse_patience} batches; lower model.lr or model.n_codes, or check that the volumes differ"
            )


def _cases(batch: dict) -> str:
    return ", ".join(batch.get("id", ["not named"]))
