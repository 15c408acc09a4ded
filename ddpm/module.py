"""Training of the denoiser: noise, condition dropping, EMA, and validation at fixed noise and timesteps."""

from contextlib import contextmanager
from functools import partial

import pytorch_lightning as pl
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from common.errors import UserError
from common.seeding import generator, normal
from common.skipped_batches import SkippedBatches
from dataset.imaging.geometry import fill_unknown
from ddpm.checkpoint.write import complete, component
from ddpm.conditioning.condition import make_condition
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.pose_regressor import PoseRegressor
from ddpm.denoiser.unet import UNet3D
from ddpm.diffusion.noise_schedule import NoiseSchedule
from ddpm.diffusion.objective import NoiseObjective
from ddpm.fsdp import local, shard, share, whole
from ddpm.latent.base import LatentEncoder
from ddpm.lora import add_lora
from ddpm.losses.adversarial import AdversarialTerm
from ddpm.losses.latent_terms import GeneratorLosses
from ddpm.losses.loss_type import pointwise_loss
from ddpm.pipeline import XrayToCTPipeline
from ddpm.xray_encoder.base import XrayEncoder, XrayFeatures

EXCERPT_STREAM = 1 << 40  # of random numbers: no position in a batch reaches it
VALIDATION_LEVELS = 8  # timesteps at which every validation case is judged, evenly spread


class DDPMModule(pl.LightningModule):
    """Latent diffusion conditioned on X-rays.

    Batches are dicts with whitened `latent` `(b, c, d, h, w)`, `xray`, `pose`, `spacing`, `index` and `step`.

    Args:
        latent_encoder: frozen; it stays outside the registered modules, so that no optimizer, EMA or device copy
            meets it, and is written once into a checkpoint.
        optimizer: partial, completed with the parameters that train.
        num_batches: length of the training in batches; `accumulate` batches make one step of the optimizer.
        volume_size: voxels `(D, H, W)` of the CT behind the latents.
        condition_drop: probability that a sample trains without its X-ray, so that guidance works.
        freeze_xray_encoder: leaves the X-ray encoder as it is, in eval mode; None does so with a pretrained one.
        lora: `rank`, `alpha` and `patterns` of adapters, which then train alone (`ddpm.lora.add_lora`).
        loss_type: name of the pointwise loss.
        generator_losses: further terms on the predicted clean latents; None trains without.
        adversarial_start: batch from which an adversarial term among them takes part.
        protocol: plain JSON about the data that generation needs (window, sizes, extent); written into checkpoints.
        skip_nonfinite: leaves out batches whose loss is not finite, in place of stopping; not many in a row.
    """

    def __init__(
        self,
        denoiser: UNet3D,
        xray_encoder: XrayEncoder,
        lift: nn.Module | None,
        latent_encoder: LatentEncoder,
        objective: NoiseObjective,
        optimizer: partial,
        num_batches: int,
        volume_size: tuple[int, int, int],
        protocol: dict,
        loss_type: str = "l2",
        generator_losses: GeneratorLosses | None = None,
        adversarial_start: int = 0,
        warmup_steps: int = 50,
        accumulate: int = 1,
        ema_decay: float = 0.999,
        condition_drop: float = 0.1,
        freeze_xray_encoder: bool | None = None,
        lora: dict | None = None,
        seed: int = 0,
        prior: LinearPrior | None = None,
        pose_regressor: PoseRegressor | None = None,
        skip_nonfinite: bool = False,
    ):
        super().__init__()
        parts = {"denoiser": denoiser, "xray_encoder": xray_encoder, "lift": lift}
        parts |= {"prior": prior, "pose_regressor": pose_regressor}
        self.trained = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})
        self.freeze_xray_encoder = xray_encoder.pretrained if freeze_xray_encoder is None else freeze_xray_encoder
        xray_encoder.requires_grad_(not self.freeze_xray_encoder).train(not self.freeze_xray_encoder)
        # before the average and the optimizer, which take what has a gradient now
        self.lora = None if lora is None else add_lora(self.trained, **lora)
        self._frozen = (latent_encoder.eval().requires_grad_(False),)
        self.objective, self.schedule = objective, NoiseSchedule(objective)
        self.optimizer, self.num_batches, self.accumulate = optimizer, num_batches, accumulate
        self.warmup_steps, self.loss = warmup_steps, pointwise_loss(loss_type)
        self.generator_losses, self.adversarial_start = generator_losses, adversarial_start
        self._lesson: tuple[Tensor, Tensor, Tensor] | None = None  # what the discriminator learns from next
        self.volume_size, self.protocol = tuple(volume_size), protocol
        self.condition_drop, self.seed, self.left_out = condition_drop, seed, SkippedBatches(skip_nonfinite)
        # a warm-up of the decay: early averages forget the initial weights
        self.ema = EMAModel(self._trainable(), decay=ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        self._swapped = False

    def configure_model(self) -> None:
        """Spreads weights and their average over the processes where the strategy has a device mesh (FSDP)."""
        if self.device_mesh is None or self.sharded:
            return
        for part in self.trained.values():
            shard(part, self.device_mesh["data_parallel"])
        self.ema.shadow_params = [p.detach().clone() for p in local(self._trainable())]

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the weights: then all of them take part in every forward pass."""
        return any(isinstance(p, DTensor) for p in self.trained.parameters())

    @property
    def latent_encoder(self) -> LatentEncoder:
        """The frozen encoder."""
        return self._frozen[0]

    def _trainable(self) -> list[nn.Parameter]:
        return [p for p in self.trained.parameters() if p.requires_grad]

    def configure_optimizers(self) -> dict:
        """Only what trains; linear warm-up, then cosine to zero, counted in steps of the optimizer."""
        optimizer = self.optimizer(self._trainable())
        steps = max(1, self.num_batches // self.accumulate)
        schedule = get_cosine_schedule_with_warmup(optimizer, self.warmup_steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train(self, mode: bool = True) -> "DDPMModule":
        """A frozen X-ray encoder stays in eval mode."""
        super().train(mode)
        if self.freeze_xray_encoder:
            self.trained["xray_encoder"].eval()
        return self

    def encode_xray(self, batch: dict) -> XrayFeatures:
        """Features of a batch's X-rays: those that came with it (`ddpm.xray_encoder.feature_cache`), or fresh ones."""
        if "xray_maps" in batch:
            return XrayFeatures(batch["xray_embedding"].float(), batch["xray_maps"].float())
        return self.trained["xray_encoder"](batch["xray"])

    def predict(
        self, noisy: Tensor, timestep: Int[Tensor, " b"], batch: dict, keep: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c d h w"]:
        """The denoiser's prediction for noisy latents of a batch."""
        denoiser, guess, guess_std = self.trained["denoiser"], None, None
        if "prior" in self.trained:
            prior = self.trained["prior"]
            seen = self.training and prior.leverage is not None  # not so where it comes from another run
            guess = prior(batch["xray"], batch["index"] if seen else None)
            guess_std = prior.deviation(guess)
        lift, place = dict(self.trained.items()).get("lift"), (batch["pose"], self._extent(batch))
        size, tokens = tuple(noisy.shape[2:]), denoiser.condition.token_grid
        told = make_condition(self.encode_xray(batch), lift, *place, size, tokens, guess, guess_std)
        return denoiser(noisy, timestep, keep=keep, **told._asdict())

    def _extent(self, batch: dict) -> Float[Tensor, "b 3"]:
        return batch["spacing"] * batch["spacing"].new_tensor(self.volume_size)

    def on_before_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Completes unknown poses and reads the step while the batch is on the CPU: a GPU would have to wait."""
        pose = [fill_unknown(p, tuple(e.tolist())) for p, e in zip(batch["pose"], self._extent(batch), strict=True)]
        unknown = batch["pose"].isnan().any(dim=-1)
        return {**batch, "pose": torch.stack(pose), "unknown": unknown, "step": batch["step"].tolist()}

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """X-rays of unknown pose are laid, in training by a guess that has not seen their patient."""
        if "pose_regressor" not in self.trained:
            return batch
        return self.trained["pose_regressor"].align_batch(batch, self.training)

    def losses(self, batch: dict, eps: Tensor, timestep: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted pointwise loss `(b,)` of a batch at given noise and timesteps, and the predicted clean latents."""
        clean = batch["latent"]
        noisy = self.schedule.add_noise(clean, eps, timestep)
        prediction = self.predict(noisy, timestep, batch, keep).float()
        error = self.loss(prediction, self.schedule.target(clean, eps, timestep))
        weighted = error.mean(dim=(1, 2, 3, 4)) * self.schedule.weight(timestep)
        return weighted, self.schedule.clean(prediction, noisy, timestep)

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        """Noise, timestep and drop of a sample depend on (seed, step, position in the global batch) alone."""
        eps, timestep, keep = self._draw(batch)
        pointwise, predicted = self.losses(batch, eps, timestep, keep)
        loss = pointwise.mean()
        if self.generator_losses is not None:
            signal = self.schedule.levels(timestep)[0].flatten().square()
            loss = loss + self._judge_clean(predicted, batch, signal)
        if not torch.isfinite(loss):
            return self.left_out.add(float(loss.detach()), batch)
        self.left_out.reset()
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True)
        return loss

    def _judge_clean(self, predicted: Tensor, batch: dict, signal: Tensor) -> Tensor:
        """Sum of the further terms. Which slices they look at depends on (seed, step): alike in all processes."""
        step, clean = int(batch["step"][0]), batch["latent"]
        terms = self.generator_losses.active(adversarial=step >= self.adversarial_start)
        if "adversarial" in terms:
            self._lesson = (predicted.detach(), clean, signal)
        chance = generator((self.seed, step, EXCERPT_STREAM))
        total, values = self.generator_losses(predicted, clean, signal, self.latent_encoder, chance, terms)
        self.log_dict({f"train/{name}": value for name, value in values.items()}, sync_dist=True)
        return total

    def on_fit_start(self) -> None:
        """Every process judges with the same discriminator."""
        if self.discriminator is not None:
            self.discriminator.synchronise(self.device)

    def on_after_backward(self) -> None:
        """The discriminator's own step: the generator's gradient, which went through it, is already there."""
        if self._lesson is not None:
            self.log("train/discriminator", self.discriminator.learn(*self._lesson), sync_dist=True)
            self._lesson = None

    @property
    def discriminator(self) -> AdversarialTerm | None:
        """The adversarial term, which learns, if there is one."""
        return None if self.generator_losses is None else self.generator_losses.terms.get("adversarial")

    def optimizer_step(self, *arguments, **options) -> None:
        """The average follows every step of the optimizer, from the first on, before any callback saves it."""
        super().optimizer_step(*arguments, **options)
        self.ema.to(self.device)
        self.ema.step(local(self._trainable()))

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Loss at the same noise and timesteps for every checkpoint, so that the curve means something."""
        clean = batch["latent"]
        levels = (torch.arange(VALIDATION_LEVELS) + 0.5) * self.objective.timesteps / VALIDATION_LEVELS
        keep = clean.new_ones(len(clean))
        total = clean.new_zeros(())
        for k, level in enumerate(levels.long()):
            eps = torch.stack([normal(clean.shape[1:], (self.seed, int(i), k)) for i in batch["index"]]).to(clean)
            timestep = level.to(clean.device).expand(len(clean))
            total = total + self.losses(batch, eps, timestep, keep)[0].mean()
        self.log("val/loss", total / VALIDATION_LEVELS, prog_bar=True, batch_size=len(clean), sync_dist=True)

    def averages(self) -> dict[str, Tensor]:
        """The averaged weights by the names of their parameters; sharded ones are gathered by all processes."""
        parameters = [(n, p) for n, p in self.trained.named_parameters() if p.requires_grad]
        pairs = zip(parameters, self.ema.shadow_params, strict=True)
        return {name: whole(average.detach(), p).clone() for (name, p), average in pairs}

    @contextmanager
    def averaged_weights(self):
        """Inside, the module holds the averaged weights."""
        modes = {part: part.training for part in self.trained.modules()}
        self._use_average()
        try:
            yield
        finally:
            self._use_raw()
            for part, training in modes.items():
                part.training = training

    def on_validation_start(self) -> None:
        """Validation judges the averaged weights."""
        self._use_average()

    def on_validation_end(self) -> None:
        """Training goes on with the raw ones."""
        self._use_raw()

    def configure_callbacks(self) -> list[pl.Callback]:
        """An exception during validation must not leave the averages where the raw weights belong."""
        return [_RawWeightsOnException()]

    def pipeline(self) -> XrayToCTPipeline:
        """The generating pipeline over the present weights of this module (shared, not copied)."""
        return XrayToCTPipeline(
            **{"lift": None, "prior": None, "pose_regressor": None, **dict(self.trained.items())},
            latent_encoder=self.latent_encoder.to(self.device),
            scheduler=self.objective.scheduler(),
            protocol=self.protocol,
        )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Adds what rebuilds the pipeline: averaged weights, latent encoder, and a header of plain JSON."""
        self._use_raw()
        checkpoint["ema"] = self.averages()
        checkpoint |= {"ema_steps": int(self.ema.optimization_step), "left_out": list(self.left_out)}
        if self.discriminator is not None:
            checkpoint["adversarial"] = self.discriminator.state_dict()
        prefixed = self.latent_encoder.state_dict(prefix="latent_encoder.")
        checkpoint["latent_encoder"] = {k: v.detach().cpu() for k, v in prefixed.items()}
        checkpoint["state_dict"] = {k.removeprefix("trained."): v for k, v in checkpoint["state_dict"].items()}
        components = {name: component(module, f"{name}.") for name, module in self.trained.items()}
        components["latent_encoder"] = component(self.latent_encoder, "latent_encoder.")
        components["scheduler"] = component(self.objective.scheduler())
        header = {"stage": "ddpm", "components": components, "protocol": self.protocol, "lora": self.lora}
        checkpoint["header"] = complete(header)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restores the averages and the discriminator; the rest is Lightning's.

        Raises:
            UserError: if the checkpoint has no discriminator to go on with.
        """
        if self.discriminator is not None:
            if "adversarial" not in checkpoint:
                raise UserError(
                    "model.resume: the checkpoint was trained without the adversarial term; resume it with its own "
                    "model.loss_type, or start a new run with model.init_from"
                )
            self.discriminator.load_state_dict(checkpoint["adversarial"])
        parameters = [(n, p) for n, p in self.trained.named_parameters() if p.requires_grad]
        self.ema.shadow_params = [share(checkpoint["ema"][name], p).clone() for name, p in parameters]
        self.ema.optimization_step = checkpoint["ema_steps"]
        self.left_out[:] = checkpoint.get("left_out", [])
        checkpoint["state_dict"] = {f"trained.{k}": v for k, v in checkpoint["state_dict"].items()}

    def _draw(self, batch: dict) -> tuple[Tensor, Tensor, Tensor]:
        clean, device = batch["latent"], batch["latent"].device
        eps, timestep, keep = [], [], []
        first = self.global_rank * len(clean)
        for row, step in enumerate(int(step) for step in batch["step"]):
            # the position in the global batch, not the case: a small data set meets itself within one batch
            chance = generator((self.seed, step, first + row))
            timestep.append(self.objective.draw_timestep(chance, step / self.num_batches))
            keep.append(float(torch.rand((), generator=chance) >= self.condition_drop))
            if device.type != "cpu":  # drawn where it is needed: a copy of the noise would take longer than the step
                seed = int(torch.randint(2**31, (), generator=chance))
                chance = torch.Generator(device).manual_seed(seed)
            eps.append(torch.randn(clean.shape[1:], generator=chance, device=device))
        return torch.stack(eps), torch.tensor(timestep, device=device), torch.tensor(keep, device=device)

    def _use_average(self) -> None:
        if not self._swapped:
            self.ema.to(self.device)
            self.ema.store(local(self._trainable()))
            self.ema.copy_to(local(self._trainable()))
            self._swapped = True

    def _use_raw(self) -> None:
        if self._swapped:
            self.ema.restore(local(self._trainable()))
            self._swapped = False


class _RawWeightsOnException(pl.Callback):
    def on_exception(self, trainer: pl.Trainer, module: DDPMModule, exception: BaseException) -> None:
        module._use_raw()
