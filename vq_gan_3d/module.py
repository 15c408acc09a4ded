"""Training of the VQ-GAN: two optimizers in manual optimization, codebook statistics, and errors that name a cause."""

import logging
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

COLLAPSE_PERPLEXITY = 2.0  # a lower perplexity …
COLLAPSE_PATIENCE = 200  # … over so many batches stops the training

log = logging.getLogger(__name__)


class TrainingStopped(RuntimeError):
    """Training diverged or its codebook collapsed; the message names cause and remedy."""


class VQGANModule(pl.LightningModule):
    """L1 reconstruction, commitment, optional 2.5D perceptual and patch-adversarial terms.

    Batches are dicts with `ct` `(b, 1, D, H, W)` in [-1, 1], `index`, `step` and, if not all voxels were scanned,
    `scanned` `(b, 1, D, H, W)`: the others count as reconstructed exactly, so no term has a gradient there.

    Args:
        model: the autoencoder.
        optimisation: of the autoencoder; `skip_nonfinite` skips batches with voxels that are not finite before they
            update the codebook.
        commitment_weight: of the distance between vectors and their codes.
        adversarial: discriminator of volumes, or None.
        perceptual: `(volume, target, generator) -> loss` with a `weight`, or None.
        gradient_clip: largest norm of the gradients of each network.
        metrics: name to function of (reconstruction, target, mask or None) `(d, h, w)`, both in [-1, 1]; logged on
            validation.
        header: plain JSON for every checkpoint beside the model's config (protocol of the data).
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
        # batches, not Lightning's global_step, which counts two optimizer steps per batch
        self.register_buffer("batches_done", torch.zeros((), dtype=torch.long))
        self.register_buffer("batches_collapsed", torch.zeros((), dtype=torch.long))

    def configure_model(self) -> None:
        """Shards the weights if the strategy has a device mesh (FSDP)."""
        if self.device_mesh is None or self.sharded:
            return
        for network in (self.model.encoder, self.model.decoder, self.model, self.discriminator):
            if network is not None:
                fully_shard(network, mesh=self.device_mesh["data_parallel"], reshard_after_forward=True)

    @property
    def sharded(self) -> bool:
        """Whether each process holds a shard of the weights, so that all must take part in every forward pass."""
        return isinstance(self.model, FSDPModule)

    def configure_optimizers(self):
        """Optimizer of the autoencoder, then of the discriminator; the codebook has moving averages instead."""
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

        if self._skip(batch):
            return
        volume = batch["ct"]
        out = self.model(volume, batch.get("scanned"))
        reconstruction = _where_scanned(out.volume, batch)
        terms = {"l1": F.l1_loss(reconstruction, volume)}
        loss = terms["l1"]
        if out.indices is not None:
            terms["commitment"] = out.commitment
            loss = loss + self.commitment_weight * out.commitment
        if self.perceptual is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.batches_done))
            terms["perceptual"] = self.perceptual(reconstruction, volume, generator)
            loss = loss + self.perceptual.weight * terms["perceptual"]
        if adversarial:
            scores = patch_scores(self.discriminator, reconstruction, frozen=True).float().tanh()
            terms["adversarial"] = F.relu(1.0 - scores).mean()
            loss = loss + self.adversarial.weight * terms["adversarial"]
        if not torch.isfinite(loss):
            values = ", ".join(f"{name} {float(value):g}" for name, value in terms.items())
            raise TrainingStopped(
                f"the loss is not finite at batch {int(self.batches_done)} (cases {_cases(batch)}; {values}): check "
                "these cases, lower model.train_lr or set model.precision=32; model.skip_nonfinite=true skips volumes "
                "that are not finite; the last checkpoint is unchanged"
            )
        self._step(optimizers[0], schedules[0], loss, self.model)

        if adversarial:
            real = patch_scores(self.discriminator, volume.detach()).float().tanh()
            fake = patch_scores(self.discriminator, reconstruction.detach()).float().tanh()
            terms["discriminator"] = discriminator_loss(real, fake)
            self._step(optimizers[1], schedules[1], terms["discriminator"], self.discriminator)

        if out.indices is not None:
            effective, used = perplexity(out.indices, self.model.codebook.n_codes)
            if effective.isfinite():  # not without any scanned cell
                self._check_collapse(effective)
                self.log_dict({"codebook/perplexity": effective, "codebook/used": used})
        self.batches_done += 1
        self.log_dict({f"train/{k}": v.detach() for k, v in terms.items()}, sync_dist=True)
        self.log("train/lr", schedules[0].get_last_lr()[0])
        self.log("loss", loss.detach(), prog_bar=True, logger=False, sync_dist=True)

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Logs L1 and metrics of whole validation volumes.

        Also the metrics of the principal components alone, as `_pca`, and with a codebook those of the continuous
        latents, as `_unquantised`.
        """
        volume = batch["ct"]
        found = {"": self.model(volume).volume}
        if self.model.codebook is not None:
            found["_unquantised"] = self.model(volume, quantise=False).volume
        if self.model.pca is not None:
            found["_pca"] = self.model.pca.decode(self.model.pca.encode(volume))
        for suffix, decoded in found.items():
            reconstruction = _where_scanned(decoded.float().clamp(-1, 1), batch)
            scores = {name: _of_scanned(metric, reconstruction, batch) for name, metric in self.metrics.items()}
            if not suffix:
                self.log(
                    "val/l1", F.l1_loss(reconstruction, volume), prog_bar=True, batch_size=len(volume), sync_dist=True
                )
            self.log_dict({f"val/{n}{suffix}": v for n, v in scores.items()}, batch_size=len(volume), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Adds what rebuilds the model, as plain JSON."""
        config = {k: v for k, v in dict(self.model.config).items() if not k.startswith("_")}
        checkpoint["left_out"] = list(self.skipped)
        checkpoint["header"] = {
            "stage": "vqgan",
            "components": {"vqgan": {"class": "VQGAN3D", "config": config, "prefix": "model."}},
            **self.header,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restores the skipped batches; completes the checkpoint of a shorter run without discriminator."""
        self.skipped, weights = list(checkpoint.get("left_out", [])), checkpoint["state_dict"]
        own = {} if self.adversarial is None else self.discriminator.state_dict(prefix="discriminator.")
        if own.keys() - weights.keys():
            first = max(self.adversarial.first_batch, int(weights["batches_done"]))
            log.warning("the checkpoint has no discriminator, which starts untrained at batch %d", first)
            checkpoint["state_dict"] = {**own, **weights}

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

    def _check_collapse(self, effective: Tensor) -> None:
        self.batches_collapsed.copy_(torch.where(effective < COLLAPSE_PERPLEXITY, self.batches_collapsed + 1, 0))
        if int(self.batches_collapsed) >= COLLAPSE_PATIENCE:
            raise TrainingStopped(
                f"the codebook collapsed: perplexity {float(effective):.2f} below {COLLAPSE_PERPLEXITY:g} for "
                f"{COLLAPSE_PATIENCE} batches; lower model.train_lr or model.n_codes, or check that the volumes differ"
            )


def _where_scanned(reconstruction: Tensor, batch: dict) -> Tensor:
    """The reconstruction with the true voxels in place of those that were not scanned."""
    if "scanned" not in batch:
        return reconstruction
    return torch.where(batch["scanned"], reconstruction, batch["ct"].to(reconstruction.dtype))


def _of_scanned(metric: Callable, reconstruction: Tensor, batch: dict) -> Tensor:
    """Mean over the volumes of a metric of the voxels that were scanned."""
    masks = [None] * len(reconstruction) if "scanned" not in batch else batch["scanned"][:, 0]
    volumes = zip(reconstruction[:, 0], batch["ct"][:, 0], masks, strict=True)
    return torch.stack([metric(one, true, mask=mask) for one, true, mask in volumes]).mean()


def _cases(batch: dict) -> str:
    return ", ".join(batch.get("id", ["not named"]))
