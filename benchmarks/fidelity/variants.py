"""The methods of the benchmark as overrides of the project's own commands."""

from dataclasses import dataclass

COMMON = {  # the same for every method
    64: ["model.batch_size=2", "model.warmup_steps=50", "model.ema_decay=0.999"],
    128: ["model.batch_size=16", "model.warmup_steps=100", "model.ema_decay=0.999"],
}
NETWORK = {  # `model` and `regression`
    64: ["model.dim=32", "model.train_lr=6.0e-4", "model.warmup_steps=200", "model.xray_encoder.width=32"],
    # below 15 MB in bfloat16 with its autoencoder: these are the demo's weights
    128: [
        "model.dim=32",
        "model.train_lr=6.0e-4",
        "model.warmup_steps=200",
        "model.xray_encoder.width=32",
        "model.dim_mults=[1,2,3]",
        "model.prior.rank=32",
    ],
}
OURS = [
    "model.dim_mults=[1,2,4]",
    "model.xray_encoder.blocks=1",
    "model.xray_encoder.feature_channels=64",
    "model.prior.preconditioning=true",
    "model.conditioning.drop=0",
    "model.objective.pure_noise_warmup=0.5",
    "model.objective.timestep_power=1",
    "model.objective.snr_weight=0.2",
]
# recipe of the ablations: low-noise timesteps drawn rarely and weighted as all others
RARE_LOW_NOISE = ("model.objective.timestep_power=2", "model.objective.snr_weight=null")
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
MINUTES = {64: (20.0, 8.0), 128: (4.0, 4.0)}  # full training, ablation; two cores at 64³, one H100 at 128³
BASELINES = ("mean_volume", "nearest", "ridge")  # need no training seed
ONE_STEP = ["sampler=ddim", "sampler.steps=1", "sampler.antithetic=false", "samples=1"]
CLIPPED = [
    "sampler=ancestral",
    "+sampler.clip_sample=true",
    "sampler.antithetic=false",
    "samples=1",
]  # as in its sampler
STRIDED = [*CLIPPED, "sampler.steps=50"]


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
    ours = [*COMMON[size], *OURS, *NETWORK[size]]
    whole = {name: name for name in ("model", "model_sample", *BASELINES, "shuffled_xray")}
    sampled = ("samples=8",)
    parts = ("samples=4",)  # compared only with one another: half the evaluation time

    def named(name: str) -> dict[str, str]:
        return {"model": name, "model_sample": f"{name}_sample"}

    def without(name: str, *overrides: str) -> Method:
        return Method((*ours, *RARE_LOW_NOISE, *overrides), parts, named(name), part_minutes)

    def unknown(name: str, *overrides: str, evaluated: dict[str, str] | None = None, evaluate=sampled) -> Method:
        """Trained and evaluated on X-rays of unknown pose."""
        evaluated = evaluated or named(name)
        poses = {"trained_on": UNKNOWN_POSE, "evaluated_on": UNKNOWN_POSE}
        return Method((*ours, *overrides), evaluate, evaluated, part_minutes, **poses)

    def on_unknown(trained_as: str, minutes: float, *overrides: str) -> Method:
        """Trained with known poses, evaluated with unknown ones."""
        evaluated = {"model": f"{trained_as}_on_unknown_pose"}
        evaluate = sampled if trained_as == "model" else parts
        return Method(
            (*ours, *overrides), evaluate, evaluated, minutes, trained_as=trained_as, evaluated_on=UNKNOWN_POSE
        )

    one = {"model": "regression"}
    xray2ctpa = (*COMMON[size], *XRAY2CTPA)
    return {
        "model": Method(tuple(ours), sampled, whole, whole_minutes),
        "regression": Method((*ours, *REGRESSION), tuple(ONE_STEP), one, whole_minutes),
        "xray2ctpa": Method(xray2ctpa, tuple(STRIDED), {"model": "xray2ctpa"}, whole_minutes),
        "xray2ctpa_1000": Method(
            xray2ctpa,
            (*CLIPPED, "cases=8"),
            {"model": "xray2ctpa_1000"},
            whole_minutes,
            trained_as="xray2ctpa",
        ),
        "whole_8min": without("whole_8min"),
        "low_noise_timesteps": Method(tuple(ours), parts, named("low_noise_timesteps"), part_minutes),
        "no_prior": without("no_prior", *NO_PRIOR),
        "no_lifting": without("no_lifting", "model.conditioning.channels=0"),
        "no_embedding": without("no_embedding", "model.conditioning.global_embedding=false"),
        "with_tokens": without("with_tokens", "model.conditioning.token_grid=8"),
        "constant_rays": without("constant_rays", "model.conditioning.depth_bins=1"),
        "v_prediction": without(
            "v_prediction", "model.objective.prediction=v_prediction", "model.prior.preconditioning=false"
        ),
        "flow": without("flow", "model.objective.prediction=flow", "model.prior.preconditioning=false"),
        "no_preconditioning": without("no_preconditioning", "model.prior.preconditioning=false"),
        "no_pure_noise_warmup": without("no_pure_noise_warmup", "model.objective.pure_noise_warmup=0"),
        "condition_drop": without("condition_drop", "model.conditioning.drop=0.1"),
        "factorised": without("factorised", *FACTORISED),
        # with a pose regressor the linear prior starts late by default
        "unknown_pose": unknown("unknown_pose", evaluated={ours_name: unknown_name(ours_name) for ours_name in whole}),
        "unknown_pose_no_lifting": unknown("unknown_pose_no_lifting", "model.conditioning.channels=0"),
        "unknown_pose_regression": unknown(
            "unknown_pose_regression",
            *REGRESSION,
            evaluated={"model": "unknown_pose_regression"},
            evaluate=tuple(ONE_STEP),
        ),
        "unknown_pose_no_prior": unknown("unknown_pose_no_prior", *RARE_LOW_NOISE, *NO_PRIOR),
        "unknown_pose_no_prior_no_lifting": unknown(
            "unknown_pose_no_prior_no_lifting", *RARE_LOW_NOISE, *NO_PRIOR, "model.conditioning.channels=0"
        ),
        "unknown_pose_prior": unknown("unknown_pose_prior", *RARE_LOW_NOISE, "model.prior.start=0"),
        "unknown_pose_prior_no_lifting": unknown(
            "unknown_pose_prior_no_lifting", *RARE_LOW_NOISE, "model.prior.start=0", "model.conditioning.channels=0"
        ),
        "unknown_pose_prior_no_regressor": unknown(
            "unknown_pose_prior_no_regressor", *RARE_LOW_NOISE, "model.prior.start=0", "model.pose_regressor=false"
        ),
        "model_on_unknown_pose": on_unknown("model", whole_minutes),
        "whole_8min_on_unknown_pose": on_unknown("whole_8min", part_minutes, *RARE_LOW_NOISE),
        "no_lifting_on_unknown_pose": on_unknown(
            "no_lifting", part_minutes, *RARE_LOW_NOISE, "model.conditioning.channels=0"
        ),
    }
