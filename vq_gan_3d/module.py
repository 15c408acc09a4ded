"""Training of the VQ-GAN: two optimizers in manual optimization, codebook statistics, and stops that name a cause."""

from collections.abc import Callable
from dataclasses import replace

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from vq_gan_3d.adversarial import Discriminator, discriminator_loss, patch_scores
from vq_gan_3d.autoencoder import VQGAN3D
from vq_gan_3d.codebook import perplexity
from vq_gan_3d.optimisation import Optimisation
from vq_gan_3d.perceptual import SlicePerceptualLoss

COLLAPSE_PERPLEXITY = 2.0  # fewer codes in use than this …
COLLAPSE_PATIENCE = 200  # … over so many batches stop the training


class TrainingStopped(RuntimeError):
    """Training diverged or its codebook collapsed; the message names cause and remedy."""


class VQGANModule(pl.LightningModule):
    """L1 reconstruction, commitment, optional 2.5D perceptual and patch-adversarial terms.

    Batches are dicts with `ct` `(b, 1, D, H, W)` in [-1, 1], `index` and `step`.

    Args:
        model: the autoencoder that is trained.
        optimisation: of the autoencoder; `skip_nonfinite` skips batches with voxels that are not finite, before the
            codebook learns from them.
        commitment_weight: of the distance between vectors and their codes.
        adversarial: discriminator of volumes, or None.
        perceptual: `(volume, target, generator) -> loss` with a `weight`, or None.
        gradient_clip: largest norm of the gradients of each network.
        metrics: name to function of (reconstruction, target), both in [-1, 1]; logged on validation.
        header: plain JSON that is written into every checkpoint beside the model's config (protocol of the data).
    """

    def __init__(
        self,
        model: VQGAN3D,
        optimisation: Optimisation,
        commitment_weight: float = 0.25,
        adversarial: Discriminator | None = None,
        perceptual: SlicePerceptualLoss | None = None,
        gradient_clip: float = 1.0,
        metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
        header: dict | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.optimisation, self.skipped = optimisation, []
        self.model, self.adversarial = model, adversarial
        self.discriminator = None if adversarial is None else adversarial.network
        self.commitment_weight, self.perceptual, self.gradient_clip = commitment_weight, perceptual, gradient_clip
        self.metrics, self.header, self.seed = metrics or {}, header or {}, seed
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
        pairs = [self.optimisation.start(self.model.parameters())]
        if self.adversarial is not None:
            own = replace(self.optimisation, optimizer=self.adversarial.optimizer)
            pairs.append(own.start(self.discriminator.parameters(), self.adversarial.first_batch))
        optimizers, schedules = zip(*pairs, strict=True)
        return list(optimizers), list(schedules)

    def training_step(self, batch: dict, batch_idx: int) -> None:
        """One step of the autoencoder, then one of the discriminator on the same volumes."""
        optimizers, schedules = self.optimizers(), self.lr_schedulers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        schedules = schedules if isinstance(schedules, list) else [schedules]
        adversarial = self.adversarial is not None and int(self.batches_done) >= self.adversarial.first_batch

        volume = batch["ct"]
        if self._skip(batch):
            return
        out = self.model(volume)
        terms = {"l1": F.l1_loss(out.volume, volume), "commitment": out.commitment}
        loss = terms["l1"] + self.commitment_weight * terms["commitment"]
        if self.perceptual is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.batches_done))
            terms["perceptual"] = self.perceptual(out.volume, volume, generator)
            loss = loss + self.perceptual.weight * terms["perceptual"]
        if adversarial:
            scores = patch_scores(self.discriminator, out.volume, frozen=True).float().tanh()
            terms["adversarial"] = F.relu(1.0 - scores).mean()
            loss = loss + self.adversarial.weight * terms["adversarial"]
        self._check(loss, terms, batch)
        self._step(optimizers[0], schedules[0], loss, self.model)

        if adversarial:
            real = patch_scores(self.discriminator, volume.detach()).float().tanh()
            fake = patch_scores(self.discriminator, out.volume.detach()).float().tanh()
            terms["discriminator"] = discriminator_loss(real, fake)
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
        checkpoint["left_out"] = list(self.skipped)
        checkpoint["header"] = {
            "stage": "vqgan",
            "components": {"vqgan": {"class": "VQGAN3D", "config": config, "prefix": "model."}},
            **self.header,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Lightning's hook."""
        self.skipped = list(checkpoint.get("left_out", []))

    def _step(self, optimizer, schedule, loss: Tensor, module: nn.Module) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        # Lightning refuses gradient_clip_val with manual optimization
        torch.nn.utils.clip_grad_norm_(module.parameters(), self.gradient_clip)
        optimizer.step()
        schedule.step()

    def _skip(self, batch: dict) -> bool:
        """Whether all processes skip this batch because the volumes of one of them are not finite."""
        if not self.optimisation.skip_nonfinite:
            return False
        bad = not bool(torch.isfinite(batch["ct"]).all())
        if bad:
            self.skipped.append(f"batch {int(self.batches_done)} (cases {_cases(batch)})")
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
        collapsed = spread < COLLAPSE_PERPLEXITY
        self.batches_collapsed.copy_(torch.where(collapsed, self.batches_collapsed + 1, 0))
        if int(self.batches_collapsed) >= COLLAPSE_PATIENCE:
            raise TrainingStopped(
                f"the codebook collapsed: perplexity {float(spread):.2f} below {COLLAPSE_PERPLEXITY:g} for "
                f"{COLLAPSE_PATIENCE} batches; lower model.lr or model.n_codes, or check that the volumes differ"
            )


def _cases(batch: dict) -> str:
    return ", ".join(batch.get("id", ["not named"]))
