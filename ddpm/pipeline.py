"""The pipeline from X-rays to CT volumes in HU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from os.path import isdir

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from jaxtyping import Float
from torch import Tensor, nn

from common.autocast import inference_autocast
from common.errors import UserError
from dataset.imaging.geometry import fill_unknown
from dataset.imaging.hu_window import Window
from ddpm.conditioning.condition import Condition, make_condition
from ddpm.conditioning.frontal_only import refuse_other_pictures
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.pose_regressor import PoseRegressor
from ddpm.conditioning.view_priors import ViewPriors
from ddpm.conditioning.views import complete_views
from ddpm.consistency.projection_consistency import ProjectionConsistency
from ddpm.consistency.xray_correction import LatentUpdate, XrayCorrection, consistency_mode, describe_mode
from ddpm.denoiser.unet import UNet3D
from ddpm.diffusion.distilled import check_steps, choose_solver, default_sampling
from ddpm.diffusion.sample_noise import SampleNoise, can_pair
from ddpm.diffusion.samplers import PREVIEW, PREVIEW_STEPS, check_guidance, draws_noise, make_sampler, network_timestep
from ddpm.diffusion.sampling_loop import sample_latents, set_steps
from ddpm.diffusion.solvers import LogSNRSolver
from ddpm.diffusion.training_spread import TrainingSpread
from ddpm.latent import DecoderResidual, LatentEncoder
from ddpm.pipeline_folder import FILES, check_index, make_portable, read_part, read_settings, refuse_precision
from ddpm.registry import NETWORKS, OPTIONAL, TRAINED
from ddpm.weights.hub import take_hub_options, upload
from ddpm.xray_encoder.base import XrayEncoder


@dataclass(frozen=True)
class GeneratedCT:
    """Samples of synthetic CT volumes, not for diagnosis."""

    volumes: Float[Tensor, "b n D H W"]  # HU, clipped to the window
    chi2: Float[Tensor, "b n"] | None = None  # of the latents against their X-ray; NaN where they were not compared
    first_chi2: Float[Tensor, " b"] | None = None  # of the mean of the first predictions, which no update has changed
    films: list[dict | None] | None = None  # how X-rays of unknown pose were compared (`XrayCorrection.films`)


class XrayToCTPipeline(DiffusionPipeline):
    """X-ray encoder, ray lifting, linear prior, denoiser, sampler and latent decoder.

    Args:
        lift: module that resamples the maps of the X-ray on the latent grid; None for a denoiser without it.
        prior: linear prior of the latents; None for a denoiser without one.
        pose_regressor: aligns X-rays of unknown pose; None assumes the nominal pose.
        consistency: updates predicted latents towards X-rays of known pose; None leaves them to the network.
        decoder_residual: the detail that the latent encoder loses (`with_residual` adds it); None if not measured.
        training_spread: how much training volumes differ, for evidence maps; None if not measured.
        protocol: properties of the training data, plain JSON: `window`, `volume_size`, `extent` in mm, `dataset`, ….
        sampling: arguments of `set_sampler`; None takes the default.
    """

    _optional_components = list(OPTIONAL)

    def __init__(
        self,
        denoiser: UNet3D,
        xray_encoder: XrayEncoder,
        lift: nn.Module | None,
        latent_encoder: LatentEncoder,
        scheduler: SchedulerMixin,
        prior: LinearPrior | ViewPriors | None,  # no default: diffusers takes an argument with a default for a setting
        pose_regressor: PoseRegressor | None,
        consistency: ProjectionConsistency | None,
        decoder_residual: DecoderResidual | None,
        training_spread: TrainingSpread | None,
        protocol: dict | None = None,
        sampling: dict | None = None,
    ):
        super().__init__()
        if protocol is None:
            raise ValueError("protocol: missing; it describes the training data")
        self.register_modules(
            denoiser=denoiser,
            xray_encoder=xray_encoder,
            lift=lift,
            latent_encoder=latent_encoder,
            scheduler=scheduler,
            prior=prior,
            pose_regressor=pose_regressor,
            consistency=consistency,
            decoder_residual=decoder_residual,
            training_spread=training_spread,
        )
        self.register_to_config(protocol=protocol)
        for module in self.networks.values():
            module.eval()
        self.training_scheduler = scheduler
        self.set_sampler(**(sampling or default_sampling(protocol)))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **options) -> "XrayToCTPipeline":
        """A pipeline from a folder that `save_pretrained` or `evaluation/export.py` wrote, or from the hub.

        `options` are parts in place of those in the folder, and options of the hub (`revision`, `token`, `cache_dir`,
        `local_files_only`). Raises a `UserError` for a folder that names foreign classes or lacks weights, and for an
        option that runs code or changes the precision.
        """
        if forbidden := {"custom_pipeline", "trust_remote_code"} & options.keys():
            raise UserError(f"{sorted(forbidden)[0]}: the project runs no code that comes with weights; leave it out")
        refuse_precision(options)
        given = {name: options.pop(name) for name in (*NETWORKS, "scheduler") if name in options}
        folder, here = str(pretrained_model_name_or_path), True
        if not isdir(folder):
            folder, here = cls.download(folder, use_safetensors=True, **options), False
        found = check_index(folder, linked=not here)
        parts = {name: read_part(folder, name) for name in found if name not in given}
        try:
            return cls(**{**dict.fromkeys(NETWORKS), **parts, **given}, **read_settings(folder))
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: its parts do not make a pipeline: {str(error)[:300]}") from error

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **options) -> None:
        """Writes a folder with `model_index.json`, and config and safetensors of each part, without local paths.

        The scheduler in it is the noise process of training; the index holds sampler, steps and guidance.
        `push_to_hub` then uploads these files to `repo_id` (default: the name of the folder), with the options
        `private`, `token`, `commit_message` and `create_pr`. Raises a `UserError` if the hub refuses it.
        """
        hub = take_hub_options(options, save_directory, push_to_hub)
        sampler, self.scheduler = self.scheduler, self.training_scheduler
        try:
            super().save_pretrained(save_directory, **{**options, "safe_serialization": True})
        finally:
            self.scheduler = sampler
        make_portable(save_directory)
        if push_to_hub:  # only now that the folder holds no path
            files = [*FILES, *(f"{name}/*" for name in (*self.networks, "scheduler"))]
            upload(save_directory, files=files, **{"message": f"Upload {type(self).__name__}", **hub})

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The parts that are present, by name, without the scheduler."""
        return {name: getattr(self, name) for name in NETWORKS if getattr(self, name) is not None}

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The parts that gradients train, by name."""
        return {name: part for name, part in self.networks.items() if name in TRAINED}

    @property
    def protocol(self) -> dict:
        """Properties of the training data."""
        return dict(self.config.protocol)

    @property
    def window(self) -> Window:
        """HU window of the volumes."""
        return Window.parse(self.protocol["window"])

    @property
    def volume_size(self) -> tuple[int, int, int]:
        """Voxels `(D, H, W)` of a generated volume."""
        return tuple(self.protocol["volume_size"])

    @property
    def extent(self) -> tuple[float, float, float]:
        """Size in mm `(D, H, W)` of a typical training volume: the nominal size for an X-ray of unknown scale."""
        return tuple(self.protocol["extent"])

    def set_sampler(
        self,
        scheduler: str,
        steps: int | None,
        guidance_scale: float = 1.0,
        antithetic: bool | None = None,
        spacing: str | None = None,
        decoder_residual: bool = True,
        consistency: bool | str | None = None,
        **options,
    ) -> "XrayToCTPipeline":
        """Sets the sampler by its diffusers name (`ddpm.diffusion.samplers.SAMPLERS`), its steps and the guidance.

        `antithetic` draws samples in pairs of opposite noise (`ddpm.diffusion.sample_noise`); None does so with every
        sampler that can. `spacing` is that of `make_sampler`; `options` are of the solver, such as `solver_order`.
        `decoder_residual` says whether spreads and intervals include that part, if there is one.
        `consistency` updates the latents of every step towards the X-ray: `on`, `off`, or None for known poses.
        UserError for pairs of a sampler that cannot draw them, `on` without that part, and as `choose_solver`.
        """
        guidance_scale = self.check_guidance(guidance_scale)
        scheduler, steps, spacing, options = choose_solver(self.protocol, scheduler, steps, spacing, options)
        made = make_sampler(scheduler, self.training_scheduler, spacing, **options)
        if antithetic and not can_pair(made):
            remedy = "set sampler.antithetic=false"
            raise UserError(f"sampler.antithetic=true: {scheduler} cannot draw opposite noise; {remedy}")
        self.scheduler, self.steps, self.guidance_scale = made, steps, guidance_scale
        self.antithetic, self.solver_options = can_pair(made) if antithetic is None else bool(antithetic), options
        self.residual = self.decoder_residual if decoder_residual else None
        self.consistent = consistency_mode(consistency, self.consistency)
        chosen = {"scheduler": scheduler, "steps": self.steps, "guidance_scale": self.guidance_scale}
        chosen |= {"antithetic": self.antithetic, "spacing": spacing, "decoder_residual": bool(decoder_residual)}
        self.register_to_config(sampling={**chosen, "consistency": self.consistent, **options})
        return self

    @property
    def preview(self) -> str | None:
        """Warning for so few steps that the samples vary too little; None otherwise."""
        return PREVIEW if self.steps <= PREVIEW_STEPS and "distilled" not in self.config.protocol else None

    @property
    def stochastic(self) -> bool:
        """Whether the sampler draws new noise at every step."""
        return draws_noise(self.scheduler)

    def describe(self) -> dict:
        """Sampler, steps, network evaluations of a sample, guidance and parameters, as plain JSON."""
        return {
            "sampler": type(self.scheduler).__name__,
            "step_spacing": "log_snr" if isinstance(self.scheduler, LogSNRSolver) else "trailing",
            "solver_options": self.solver_options,
            "stochastic": self.stochastic,
            "steps": self.steps,
            "evaluations": set_steps(self.scheduler, self.steps, self.device) * (1 + (self.guidance_scale != 1.0)),
            **({"preview": PREVIEW} if self.preview else {}),
            "guidance_scale": self.guidance_scale,
            "antithetic": self.antithetic,
            "decoder_residual": self.residual is not None,
            "consistency": describe_mode(self.consistency, self.consistent),
            "prediction": self.training_scheduler.config.get("prediction_type", "flow"),
            "latent_encoder": type(self.latent_encoder).__name__,
            "parameters": {k: sum(p.numel() for p in module.parameters()) for k, module in self.networks.items()},
        }

    @torch.no_grad()
    def __call__(
        self,
        xray: Float[Tensor, "b v 1 h w"],
        pose: Float[Tensor, "b v 9"] | None = None,
        num_samples: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        ids: list[str] | None = None,
        extent: Float[Tensor, "b 3"] | None = None,
        batch_size: int = 8,
        allow_any_picture: bool = False,
        progress: Callable[[int, int], None] | None = None,
        preview: Callable[[int, Float[Tensor, "n c d h w"]], None] | None = None,
        guides: Sequence[LatentUpdate | None] | None = None,
    ) -> GeneratedCT:
        """Volumes for X-rays in [0, 1] (bright bone), NaN where they are unknown (`dataset.imaging.unknown_pixels`).

        A generator that was trained with dropped views (`model.conditioning.view_drop`) takes the first view alone, or
        all views with NaN for the missing ones. The noise of sample j of an X-ray depends only on `(seed, ids[i], j)`,
        so neither the batch nor the order of the X-rays changes a volume beyond rounding.

        Args:
            pose: geometry of each view, NaN or None where unknown: then the nominal posterior-anterior pose, to which
                `pose_regressor`, if present, aligns the X-ray.
            num_samples: samples n of the posterior for each X-ray.
            num_inference_steps: steps of the sampler; None takes that of `set_sampler`.
            guidance_scale: classifier-free guidance (Ho and Salimans 2022, eq. 6): 1 samples the conditional model,
                above 1 exaggerates the condition. None takes that of `set_sampler`.
            ids: a name for each X-ray; None takes its position.
            extent: size in mm of each volume; None takes `self.extent`.
            batch_size: latents denoised and decoded at once.
            allow_any_picture: False raises UserError if the first view of an X-ray of unknown pose does not look like
                a frontal chest X-ray (`dataset.imaging.frontal_check`).
            progress: called with (steps done, all steps) after every step; its exceptions end the generation.
            preview: called with (step, predicted clean latents) in every step, for `decode`.
            guides: of each X-ray the bounds of its lungs, towards which its latents are updated; None without.
        """
        xray, pose = complete_views(xray, pose, self.protocol)
        b, device = len(xray), self.denoiser.device
        ids = [str(i) for i in range(b)] if ids is None else [str(i) for i in ids]
        if len(ids) != b:
            raise ValueError(f"{len(ids)} ids for {b} X-rays")
        if not (allow_any_picture or self.protocol.get("input") == "volume"):
            refuse_other_pictures(xray, pose, ids)
        steps = self.steps if num_inference_steps is None else check_steps(self.protocol, int(num_inference_steps))
        guidance = self.guidance_scale if guidance_scale is None else self.check_guidance(guidance_scale)
        extent = torch.tensor(self.extent).expand(b, 3) if extent is None else extent
        shape = self.latent_encoder.latent_shape(self.volume_size)
        condition = self.condition(xray.to(device), pose, extent, shape[1:])
        jobs = [(i, j) for i in range(b) for j in range(num_samples)]
        total = -(-len(jobs) // batch_size) * (per_batch := set_steps(self.scheduler, steps, self.device))
        correct = partial(XrayCorrection, self.consistency, self.consistent, regressor=self.pose_regressor)
        correction = correct(xray.to(device), pose, extent, ids, guides)
        volumes, chi2 = torch.empty(b, num_samples, *self.volume_size), torch.empty(b, num_samples)
        for first in range(0, len(jobs), batch_size):
            done = first // batch_size * per_batch
            xrays, samples = (list(part) for part in zip(*jobs[first : first + batch_size], strict=True))
            noise = SampleNoise(seed, [ids[i] for i in xrays], samples, self.antithetic)
            rows = condition.rows(torch.tensor(xrays, device=device))
            set_steps(self.scheduler, steps, self.device)
            latents = sample_latents(
                self.scheduler,
                partial(self.predict, condition=rows, guidance=guidance),
                noise.start(shape).to(device) * getattr(self.scheduler, "init_noise_sigma", 1.0),
                step_noise=partial(noise.step, self.scheduler, shape) if self.stochastic else dict,
                correct=partial(correction.update, xrays) if correction else None,
                watch=preview and (lambda step, clean, done=done: preview(done + step, clean)),
                progress=progress and (lambda step, done=done: progress(done + step, total)),
                measure=partial(correction.measure, xrays) if correction.measures else None,
            )
            volumes[xrays, samples] = self.decode(latents).cpu()[:, 0]
            chi2[xrays, samples] = correction.chi2(latents, xrays) if correction else torch.nan
        return GeneratedCT(volumes, chi2 if correction else None, correction.first_chi2(), correction.films())

    def condition(self, xray: Tensor, pose: Tensor, extent: Tensor, size: tuple[int, int, int]) -> Condition:
        """The condition of every X-ray (completed by `complete_views`) for latents of `size`, for all its samples."""
        device, unknown = xray.device, pose.isnan().any(dim=-1)
        pose = torch.stack([fill_unknown(p, tuple(e.tolist())) for p, e in zip(pose, extent, strict=True)]).to(device)
        if self.pose_regressor is not None:
            xray, pose = self.pose_regressor(xray, pose, unknown.to(device))
        with inference_autocast(device):
            prior = (None, None) if self.prior is None else self.prior.moments(xray)
            encoded, tokens = self.xray_encoder(xray), self.denoiser.condition.token_grid
            present, extent = self.xray_encoder.present_views(xray), extent.to(device)
            return make_condition(encoded, self.lift, pose, extent, size, tokens, *prior, present).float()

    @property
    def guided(self) -> bool:
        """Whether training dropped the condition of some samples, which guidance needs."""
        return self.protocol.get("condition_drop") != 0

    def check_guidance(self, scale: float) -> float:
        """The scale as a number; a `UserError` for a scale other than 1 if training never dropped the X-ray."""
        return check_guidance(scale, self.guided)

    def predict(self, latents: Tensor, t: Tensor, condition: Condition, guidance: float) -> Tensor:
        """Prediction of the denoiser at a timestep of the sampler."""
        timestep = network_timestep(self.scheduler, t).expand(latents.shape[0])
        if hasattr(self.scheduler, "scale_model_input"):
            latents = self.scheduler.scale_model_input(latents, t)
        inputs = {"sample": latents, "timestep": timestep, **condition._asdict()}
        with inference_autocast(self.denoiser.device):
            conditioned = self.denoiser(**inputs).float()
            if guidance == 1.0:
                return conditioned
            unconditioned = self.denoiser(**inputs, keep=torch.zeros(len(latents), device=latents.device)).float()
        return unconditioned + guidance * (conditioned - unconditioned)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n c d h w"]) -> Float[Tensor, "n 1 D H W"]:
        """Volumes in HU of clean latents, clipped to the window."""
        with inference_autocast(self.denoiser.device):
            decoded = self.latent_encoder.decode(latents).float()
        return self.window.denormalise(decoded)
