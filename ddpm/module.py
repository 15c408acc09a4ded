"""Training of the denoiser: noise, condition dropping, EMA, and validation at fixed noise and timesteps."""

import math
from dataclasses import dataclass
from functools import partial

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from common.errors import UserError
from common.seeding import generator, normal
from dataset.imaging.geometry import fill_unknown
from ddpm.checkpoint.write import complete, component
from ddpm.conditioning.condition import make_condition
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.pose_regressor import PoseRegressor
from ddpm.conditioning.view_priors import ViewPriors
from ddpm.conditioning.views import draw_views, without_views
from ddpm.consistency.projection_consistency import ProjectionConsistency
from ddpm.denoiser.unet import UNet3D
from ddpm.diffusion.noise_schedule import NoiseSchedule
from ddpm.diffusion.objective import NoiseObjective
from ddpm.diffusion.training_spread import TrainingSpread
from ddpm.ema import AveragedWeights
from ddpm.fsdp import shard
from ddpm.latent import DecoderResidual, LatentEncoder
from ddpm.lora import add_lora
from ddpm.losses.adversarial import AdversarialTerm
from ddpm.losses.latent_terms import GeneratorLosses
from ddpm.losses.loss_type import POINTWISE
from ddpm.pipeline import XrayToCTPipeline
from ddpm.registry import FITTED, FROZEN, OPTIONAL, TRAINED
from ddpm.skipped_batches import SkippedBatches
from ddpm.xray_encoder.base import XrayEncoder, XrayFeatures
from vq_gan_3d.optimisation import Optimisation

EXCERPT_STREAM = 1 << 40  # seeds the slices of loss terms; above any position in a batch
VALIDATION_LEVELS = 8  # evenly spread timesteps at which every validation case is scored


@dataclass(frozen=True)
class GeneratorParts:
    """The networks of the latent diffusion model; None for those that it lacks."""

    denoiser: UNet3D
    xray_encoder: XrayEncoder
    lift: nn.Module | None
    latent_encoder: LatentEncoder  # frozen
    prior: LinearPrior | ViewPriors | None = None
    pose_regressor: PoseRegressor | None = None
    consistency: ProjectionConsistency | None = None

    def trained(self) -> nn.ModuleDict:
        """All but the latent encoder, by name."""
        parts = {name: getattr(self, name) for name in (*TRAINED, *FITTED)}
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})


@dataclass(frozen=True)
class Losses:
    """Losses of the denoiser."""

    pointwise: str = "l2"  # name of the pointwise loss
    terms: GeneratorLosses | None = None  # further terms on the predicted clean latents
    adversarial_start: int = 0  # batch from which an adversarial term among them takes part


class DDPMModule(pl.LightningModule):
    """Latent diffusion conditioned on X-rays.

    Batches are dicts with standardised `latent` `(b, c, d, h, w)`, `xray`, `pose`, `spacing`, `index`, `step` and, if
    not all were scanned, `scanned` `(b, 1, d, h, w)`: the other latents have no loss and no gradient.

    Args:
        parts: the networks.
        objective: noise schedule and target.
        optimisation: of all parts that train.
        protocol: plain JSON for generation (`window`, sizes, extent), written into checkpoints; `volume_size`
            `[D, H, W]` is that of the encoded CT, `view_drop` the probability that a sample trains without one of its
            views (`ddpm.conditioning.views`).
        losses: pointwise loss and further terms.
        ema_decay: of the averaged weights.
        condition_drop: probability that a sample trains without its X-ray, for guidance.
        freeze_xray_encoder: keeps the X-ray encoder fixed, in eval mode; None does so for a pretrained one.
        lora: `rank`, `alpha` and `patterns` of adapters, which then train alone (`ddpm.lora.add_lora`).
        seed: of noise, timesteps and condition dropping.
    """

    def __init__(
        self,
        parts: GeneratorParts,
        objective: NoiseObjective,
        optimisation: Optimisation,
        protocol: dict,
        losses: Losses = Losses(),  # noqa: B008 (frozen)
        ema_decay: float = 0.999,
        condition_drop: float = 0.0,
        freeze_xray_encoder: bool | None = None,
        lora: dict | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.trained, xray_encoder = parts.trained(), parts.xray_encoder
        self.freeze_xray_encoder = xray_encoder.pretrained if freeze_xray_encoder is None else freeze_xray_encoder
        xray_encoder.requires_grad_(not self.freeze_xray_encoder).train(not self.freeze_xray_encoder)
        # before the average and the optimizer, which take the parameters that have gradients now
        self.lora = None if lora is None else add_lora(self.trained, **lora)
        # in a tuple it is not a registered module, so that no optimizer, average or device copy includes it
        self._frozen = (parts.latent_encoder.eval().requires_grad_(False), None, None)
        self.objective, self.schedule = objective, NoiseSchedule(objective)
        self.optimisation, self.protocol, self.volume_size = optimisation, protocol, tuple(protocol["volume_size"])
        self.loss = partial(POINTWISE[losses.pointwise], reduction="none")
        self.generator_losses, self.adversarial_start = losses.terms, losses.adversarial_start
        self._discriminator_batch: tuple[Tensor, Tensor, Tensor] | None = None  # for its next step
        self.condition_drop, self.view_drop, self.seed = condition_drop, protocol.get("view_drop", 0.0), seed
        self.skipped = SkippedBatches(optimisation.skip_nonfinite)
        self.ema = AveragedWeights(self.trained, ema_decay)

    def configure_model(self) -> None:
        """Shards weights and their average if the strategy has a device mesh (FSDP)."""
        if self.device_mesh is None or self.sharded:
            return
        for part in self.trained.values():
            shard(part, self.device_mesh["data_parallel"])
        self.ema.restart()

    @property
    def sharded(self) -> bool:
        """Whether each process holds a shard of the weights, so that all must take part in every forward pass."""
        return any(isinstance(p, DTensor) for p in self.trained.parameters())

    @property
    def frozen(self) -> dict[str, nn.Module]:
        """The latent encoder and the measured parts, by name (`ddpm.registry.FROZEN`)."""
        return {name: part for name, part in zip(FROZEN, self._frozen, strict=True) if part is not None}

    @property
    def latent_encoder(self) -> LatentEncoder:
        """The frozen encoder."""
        return self._frozen[0]

    def keep_measured(self, residual: DecoderResidual | None, spread: TrainingSpread | None = None) -> None:
        """Sets what was measured on training cases (`ddpm.registry.MEASURED`), a part of checkpoints and pipelines."""
        self._frozen = (self.latent_encoder, residual, spread)

    def configure_optimizers(self) -> dict:
        """Optimizer of the parameters that train; the schedule counts its steps."""
        optimizer, schedule = self.optimisation.start(self.ema.parameters())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train(self, mode: bool = True) -> "DDPMModule":
        """A frozen X-ray encoder stays in eval mode."""
        super().train(mode)
        if self.freeze_xray_encoder:
            self.trained["xray_encoder"].eval()
        return self

    def predict(
        self, noisy: Tensor, timestep: Int[Tensor, " b"], batch: dict, keep: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c d h w"]:
        """The denoiser's prediction for noisy latents of a batch."""
        denoiser, mean, prior_std = self.trained["denoiser"], None, None
        if "prior" in self.trained:
            prior = self.trained["prior"]
            fitted = self.training and prior.fitted  # not if it comes from another run
            mean, prior_std = prior.moments(batch["xray"], batch["index"] if fitted else None)
        if "xray_maps" in batch:  # of `ddpm.xray_encoder.feature_cache`
            encoded = XrayFeatures(batch["xray_embedding"].float(), batch["xray_maps"].float())
        else:
            encoded = self.trained["xray_encoder"](batch["xray"])
        condition = make_condition(
            encoded,
            dict(self.trained.items()).get("lift"),
            batch["pose"],
            self._extent(batch),
            tuple(noisy.shape[2:]),
            token_grid=denoiser.condition.token_grid,
            prior=mean,
            prior_std=prior_std,
            present=self.trained["xray_encoder"].present_views(batch["xray"]),
        )
        return denoiser(noisy, timestep, keep=keep, **condition._asdict())

    def _extent(self, batch: dict) -> Float[Tensor, "b 3"]:
        return batch["spacing"] * batch["spacing"].new_tensor(self.volume_size)

    def on_before_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Completes unknown poses and reads the step on the CPU, which avoids a GPU sync."""
        pose = [fill_unknown(p, tuple(e.tolist())) for p, e in zip(batch["pose"], self._extent(batch), strict=True)]
        unknown = batch["pose"].isnan().any(dim=-1)
        return {**batch, "pose": torch.stack(pose), "unknown": unknown, "step": batch["step"].tolist()}

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Aligns X-rays of unknown pose, in training with the regression without their patient."""
        if "pose_regressor" not in self.trained:
            return batch
        return self.trained["pose_regressor"].align_batch(batch, self.training)

    def losses(self, batch: dict, eps: Tensor, timestep: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted pointwise loss `(b,)` at given noise and timesteps, and the predicted clean latents."""
        clean = batch["latent"]
        noisy = self.schedule.add_noise(clean, eps, timestep)
        prediction = self.predict(noisy, timestep, batch, keep).float()
        error = self.loss(prediction, self.schedule.target(clean, eps, timestep))
        if "scanned" in batch:
            error = torch.where(batch["scanned"], error, 0.0)
        weighted = error.mean(dim=(1, 2, 3, 4)) * self.schedule.weight(timestep)
        return weighted, self.schedule.clean(prediction, noisy, timestep)

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        """Noise, timestep and drop of a sample depend only on seed, step and position in the global batch."""
        eps, timestep, keep = self._draw(batch)
        batch = self._without_views(batch)
        pointwise, predicted = self.losses(batch, eps, timestep, keep)
        loss = pointwise.mean()
        if self.generator_losses is not None:
            signal = self.schedule.levels(timestep)[0].flatten().square()
            loss = loss + self._latent_losses(predicted, batch, signal)
        if not torch.isfinite(loss):
            self._discriminator_batch = None  # Lightning calls `on_before_optimizer_step` for a skipped batch too
            return self.skipped.add(float(loss.detach()), batch)
        self.skipped.reset()
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True)
        return loss

    def _latent_losses(self, predicted: Tensor, batch: dict, signal: Tensor) -> Tensor:
        """Weighted sum of the further terms. Their slices depend on seed and step, equal in all processes."""
        step, clean = int(batch["step"][0]), batch["latent"]
        adversarial = step >= self.adversarial_start
        if "scanned" in batch:
            predicted = torch.where(batch["scanned"], predicted, clean.to(predicted.dtype))
        if adversarial and self.discriminator is not None:
            self._discriminator_batch = (predicted.detach(), clean, signal)
        rng = generator((self.seed, step, EXCERPT_STREAM))
        total, values = self.generator_losses(predicted, clean, signal, self.latent_encoder, rng, adversarial)
        self.log_dict({f"train/{name}": value for name, value in values.items()}, sync_dist=True)
        return total

    def on_fit_start(self) -> None:
        """Starts all processes with the same discriminator."""
        if self.discriminator is not None:
            self.discriminator.synchronise(self.device)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The discriminator's step, one for each of the generator's, whose gradient has passed through it."""
        if self._discriminator_batch is not None:
            self.log("train/discriminator", self.discriminator.learn(*self._discriminator_batch), sync_dist=True)
            self._discriminator_batch = None

    @property
    def discriminator(self) -> AdversarialTerm | None:
        """The adversarial term, if there is one."""
        return None if self.generator_losses is None else self.generator_losses.terms.get("adversarial")

    def optimizer_step(self, *arguments, **options) -> None:
        """Updates the average with every step of the optimizer, before any callback saves it."""
        super().optimizer_step(*arguments, **options)
        self.ema.step(self.device)

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Loss at fixed noise and timesteps, so that checkpoints are comparable; only at T-1 if no other trains."""
        clean = batch["latent"]
        levels = (torch.arange(VALIDATION_LEVELS) + 0.5) * self.objective.timesteps / VALIDATION_LEVELS
        if math.isinf(self.objective.timestep_power):
            levels = torch.tensor([self.objective.timesteps - 1.0])
        keep = clean.new_ones(len(clean))
        total = clean.new_zeros(())
        for k, level in enumerate(levels.long()):
            eps = torch.stack([normal(clean.shape[1:], (self.seed, int(i), k)) for i in batch["index"]]).to(clean)
            timestep = level.to(clean.device).expand(len(clean))
            total = total + self.losses(batch, eps, timestep, keep)[0].mean()
        self.log("val/loss", total / len(levels), prog_bar=True, batch_size=len(clean), sync_dist=True)

    def configure_callbacks(self) -> list[pl.Callback]:
        """The average, which replaces the weights in validation."""
        return [self.ema]

    def pipeline(self) -> XrayToCTPipeline:
        """The pipeline with the present weights, shared with this module."""
        frozen = {name: part.to(self.device) for name, part in self.frozen.items()}
        return XrayToCTPipeline(
            **{**dict.fromkeys(OPTIONAL), **dict(self.trained.items()), **frozen},
            scheduler=self.objective.scheduler(),
            protocol=self.protocol,
        )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Adds what rebuilds the pipeline: averaged weights, latent encoder, and a header of plain JSON."""
        self.ema.swap_out()
        checkpoint["ema"] = self.ema.by_name()
        checkpoint |= {"ema_steps": int(self.ema.average.optimization_step), "left_out": list(self.skipped)}
        if self.discriminator is not None:
            checkpoint["adversarial"] = self.discriminator.state_dict()
        prefixed = [part.state_dict(prefix=f"{name}.") for name, part in self.frozen.items()]
        checkpoint["latent_encoder"] = {k: v.detach().cpu() for weights in prefixed for k, v in weights.items()}
        checkpoint["state_dict"] = {k.removeprefix("trained."): v for k, v in checkpoint["state_dict"].items()}
        parts = {**dict(self.trained.items()), **self.frozen}
        components = {name: component(module, f"{name}.") for name, module in parts.items()}
        components["scheduler"] = component(self.objective.scheduler())
        header = {"stage": "ddpm", "components": components, "protocol": self.protocol, "lora": self.lora}
        checkpoint["header"] = complete(header)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restores the averages and the discriminator; a `UserError` if the checkpoint lacks it."""
        if self.discriminator is not None:
            if "adversarial" not in checkpoint:
                raise UserError(
                    "model.resume: the checkpoint was trained without the adversarial term; resume it with its own "
                    "model.loss_type, or start a new run with model.init_from"
                )
            self.discriminator.load_state_dict(checkpoint["adversarial"])
        self.ema.load(checkpoint["ema"], checkpoint["ema_steps"])
        self.skipped[:] = checkpoint.get("left_out", [])
        checkpoint["state_dict"] = {f"trained.{k}": v for k, v in checkpoint["state_dict"].items()}

    def _without_views(self, batch: dict) -> dict:
        """A batch in which some samples lack a view, also where it contains cached features of that view."""
        if not self.view_drop:
            return batch
        xray, first = batch["xray"], self.global_rank * len(batch["xray"])
        shown = draw_views(self.view_drop, xray.shape[1], self.seed, batch["step"], first)
        return {**batch, "xray": without_views(xray, shown.to(xray.device))}

    def _draw(self, batch: dict) -> tuple[Tensor, Tensor, Tensor]:
        clean, device = batch["latent"], batch["latent"].device
        eps, timestep, keep = [], [], []
        first = self.global_rank * len(clean)
        for row, step in enumerate(int(step) for step in batch["step"]):
            # the position in the global batch, not the case: a small data set repeats cases within a batch
            rng = generator((self.seed, step, first + row))
            timestep.append(self.objective.draw_timestep(rng, step / self.optimisation.num_batches))
            keep.append(float(torch.rand((), generator=rng) >= self.condition_drop))
            if device.type != "cpu":  # drawn on the device: copying the noise would take longer than the step
                rng = torch.Generator(device).manual_seed(int(torch.randint(2**31, (), generator=rng)))
            eps.append(torch.randn(clean.shape[1:], generator=rng, device=device))
        return torch.stack(eps), torch.tensor(timestep, device=device), torch.tensor(keep, device=device)
