"""The methods of the benchmark as overrides of the project's own commands."""

from dataclasses import dataclass

COMMON = {  # the same for every method
    64: ["model.batch_size=2", "model.warmup_steps=50", "model.ema_decay=0.999"],
    128: ["model.batch_size=16", "model.warmup_steps=100", "model.ema_decay=0.999"],
}
AUTOENCODER = (
    "model.crop=[32,32,32]",
    "model.n_res_blocks=1",
    "model.warmup_steps=15",
    "model.losses.adversarial.start=1000000",
    "model.validate_every=1000",
    "model.checkpoint_every=1000",
    "model.picture_every=1000000",
)
AUTOENCODER_128 = ("model.train_num_steps=3000", "model.batch_size=8", "model.num_workers=8")
NETWORK = ["model.dim=32", "model.train_lr=6.0e-4", "model.warmup_steps=200", "model.xray_encoder.width=32"]
SMALL = ["model.dim_mults=[1,2,3]", "model.prior.rank=32"]  # at 128³, for demo weights below 15 MB in bfloat16
OURS = [
    "model.dim_mults=[1,2,4]",
    "model.xray_encoder.blocks=1",
    "model.xray_encoder.feature_channels=64",
    "model.prior.preconditioning=true",
    "model.conditioning.drop=0",
    "model.objective.prediction=sample",
    "model.objective.pure_noise_warmup=0.5",
    "model.objective.timestep_power=1",
    "model.objective.snr_weight=0.2",
]
# recipe of the ablations: low-noise timesteps drawn rarely and weighted as all others
RARE_LOW_NOISE = ("model.objective.timestep_power=2", "model.objective.snr_weight=null")
NO_PRECONDITIONING = "model.prior.preconditioning=false"
FLOW = (*RARE_LOW_NOISE, "model.objective.prediction=flow", NO_PRECONDITIONING)
FACTORISED = ["model.full_conv=false", "model.denoiser.blocks=2", "model.denoiser.depth_attention=true"]
REGRESSION = [
    "model.objective.timestep_power=inf",
    "model.objective.pure_noise_warmup=0",
    "model.denoiser.regression=true",
    "model.prior.preconditioning=false",
]
XRAY2CTPA = [  # X-ray2CTPA's latent DDPM, on the same latents
    "model.dim=32",
    "model.dim_mults=[1,2,4,8]",
    *FACTORISED,
    "model.train_lr=1.0e-4",
    "model.objective.prediction=epsilon",
    "model.objective.zero_terminal_snr=false",
    "model.objective.timestep_power=1",
    "model.loss_type=l1",
    "model.latent_scaling=range",
    "model.conditioning.channels=0",
    "model.prior.rank=0",
    "model.prior.preconditioning=false",
    "model.conditioning.drop=0",
]
UNKNOWN_POSE = ("dataset.pose_noise=true",)  # X-rays at perturbed poses that the model is not conditioned on
NO_PRIOR = ("model.prior.rank=0", "model.prior.preconditioning=false")
NO_LIFTING = ("model.conditioning.channels=0",)
RECIPES = {  # other prediction targets with the whole budget; their errors weigh low-noise timesteps by themselves
    "no_preconditioning": (NO_PRECONDITIONING,),
    "v_prediction": (*RARE_LOW_NOISE, "model.objective.prediction=v_prediction", NO_PRECONDITIONING),
    "flow": FLOW,
}
PARTS = {  # overrides of the ablations
    "whole_8min": (),
    "low_noise_timesteps": (),  # the recipe of `model`
    "no_prior": NO_PRIOR,
    "no_lifting": NO_LIFTING,
    "no_embedding": ("model.conditioning.global_embedding=false",),
    "with_tokens": ("model.conditioning.token_grid=8",),
    "constant_rays": ("model.conditioning.depth_bins=1",),
    "no_pure_noise_warmup": ("model.objective.pure_noise_warmup=0",),
    "condition_drop": ("model.conditioning.drop=0.1",),
    "factorised": FACTORISED,
}
EARLY_PRIOR = (*RARE_LOW_NOISE, "model.prior.start=0")  # with a pose regressor the prior starts late by default
UNKNOWN_POSE_PARTS = {  # overrides of the methods trained on X-rays of unknown pose
    "unknown_pose": (),
    "unknown_pose_no_lifting": NO_LIFTING,
    "unknown_pose_regression": REGRESSION,
    "unknown_pose_no_prior": (*RARE_LOW_NOISE, *NO_PRIOR),
    "unknown_pose_no_prior_no_lifting": (*RARE_LOW_NOISE, *NO_PRIOR, *NO_LIFTING),
    "unknown_pose_prior": EARLY_PRIOR,
    "unknown_pose_prior_no_lifting": (*EARLY_PRIOR, *NO_LIFTING),
    "unknown_pose_prior_no_regressor": (*EARLY_PRIOR, "model.pose_regressor=false"),
}
MINUTES = {64: (20.0, 8.0), 128: (4.0, 4.0)}  # full training, ablation; two cores at 64³, one H100 at 128³
BASELINES = ("mean_volume", "nearest", "ridge")  # need no training seed
ONE_STEP = ("sampler=ddim", "sampler.steps=1", "sampler.antithetic=false", "samples=1")
# as in the sampler of X-ray2CTPA
CLIPPED = ("sampler=ancestral", "+sampler.clip_sample=true", "sampler.antithetic=false", "samples=1")


@dataclass(frozen=True)
class Autoencoder:
    """A training of the VQ-GAN that all methods share.

    Args:
        train: overrides of `train/train_vqgan.py`.
        sizes: further ones by volume size.
        scaling: `model.latent_scaling` of the trainings on its latents.
    """

    train: tuple[str, ...]
    sizes: dict[int, tuple[str, ...]]
    scaling: str

    def overrides(self, size: int) -> list[str]:
        """Overrides of its training at a volume size."""
        return [*AUTOENCODER, *self.train, *self.sizes[size]]


AUTOENCODERS = {
    "codebook": Autoencoder(  # at 64³ small crops: on a CPU many small batches train better than few large ones
        ("model.block_pca=false", "model.quantise=true", "model.codebook_decay=0.95", "model.train_lr=2.0e-3"),
        {
            64: ("model.n_hiddens=64", "model.n_codes=4096", "model.train_num_steps=4000", "model.batch_size=1"),
            128: ("model.n_hiddens=48", "model.n_codes=4096", *AUTOENCODER_128),
        },
        scaling="unit",
    ),
    "components": Autoencoder(  # continuous latents, added to the principal components of blocks
        ("model.train_lr=1.0e-3",),
        {64: ("model.train_num_steps=1200",), 128: ("model.n_hiddens=48", *AUTOENCODER_128)},
        scaling="overall",
    ),
}


@dataclass(frozen=True)
class Method:
    """A training and its evaluation.

    Args:
        train: overrides of `train/train_ddpm.py`.
        evaluate: overrides of `evaluation/evaluate.py`.
        evaluated: names of the evaluated methods to the row names of the benchmark.
        minutes: training budget on two CPU cores (128³: one H100), without the autoencoder.
        trained_as: method whose training is reused; None = its own.
        trained_on, evaluated_on: overrides of the data in training and in evaluation.
    """

    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    evaluated: dict[str, str]
    minutes: float
    trained_as: str | None = None
    trained_on: tuple[str, ...] = ()
    evaluated_on: tuple[str, ...] = ()


def unknown_name(name: str) -> str:
    """Row name for X-rays of unknown pose."""
    return {"model": "unknown_pose", "model_sample": "unknown_pose_sample"}.get(name, f"{name}_unknown_pose")


def methods(size: int) -> dict[str, Method]:
    """Methods by name at a volume size of `size`³; `whole_8min` is named after its budget at 64³."""
    whole_minutes, part_minutes = MINUTES[size]
    ours = [*COMMON[size], *OURS, *NETWORK, *(SMALL if size == 128 else ())]
    xray2ctpa = (*COMMON[size], *XRAY2CTPA)
    whole = {name: name for name in ("model", "model_sample", *BASELINES, "shuffled_xray")}
    sampled, parts = ("samples=8",), ("samples=4",)  # parts are compared only with one another

    def named(name: str) -> dict[str, str]:
        return {"model": name, "model_sample": f"{name}_sample"}

    def on_unknown(trained_as: str, minutes: float, *overrides: str) -> Method:
        """Trained with known poses, evaluated with unknown ones."""
        evaluate, evaluated = sampled if trained_as == "model" else parts, {"model": f"{trained_as}_on_unknown_pose"}
        train = (*ours, *overrides)
        return Method(train, evaluate, evaluated, minutes, trained_as=trained_as, evaluated_on=UNKNOWN_POSE)

    found = {
        "model": Method(tuple(ours), sampled, whole, whole_minutes),
        "regression": Method((*ours, *REGRESSION), ONE_STEP, {"model": "regression"}, whole_minutes),
        "xray2ctpa": Method(xray2ctpa, (*CLIPPED, "sampler.steps=50"), {"model": "xray2ctpa"}, whole_minutes),
        "xray2ctpa_1000": Method(
            xray2ctpa, (*CLIPPED, "cases=8"), {"model": "xray2ctpa_1000"}, whole_minutes, trained_as="xray2ctpa"
        ),
    }
    for name, overrides in RECIPES.items():
        found[name] = Method((*ours, *overrides), sampled, named(name), whole_minutes)
    for name, overrides in PARTS.items():
        overrides = () if name == "low_noise_timesteps" else (*RARE_LOW_NOISE, *overrides)
        found[name] = Method((*ours, *overrides), parts, named(name), part_minutes)
    for name, overrides in UNKNOWN_POSE_PARTS.items():
        evaluate, evaluated = sampled, named(name)
        if name == "unknown_pose":
            evaluated = {method: unknown_name(method) for method in whole}
        elif name == "unknown_pose_regression":
            evaluate, evaluated = ONE_STEP, {"model": name}
        found[name] = Method(
            (*ours, *overrides), evaluate, evaluated, part_minutes, trained_on=UNKNOWN_POSE, evaluated_on=UNKNOWN_POSE
        )
    return found | {
        "model_on_unknown_pose": on_unknown("model", whole_minutes),
        "whole_8min_on_unknown_pose": on_unknown("whole_8min", part_minutes, *RARE_LOW_NOISE),
        "no_lifting_on_unknown_pose": on_unknown("no_lifting", part_minutes, *RARE_LOW_NOISE, *NO_LIFTING),
    }
