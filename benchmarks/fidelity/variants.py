"""The methods of the benchmark as overrides of the project's own commands."""

from dataclasses import dataclass

COMMON = {  # how long, how often: the same for every method
    64: ["model.batch_size=2", "model.warmup_steps=50", "model.ema_decay=0.999"],
    128: ["model.batch_size=16", "model.warmup_steps=100", "model.ema_decay=0.999"],
}
NETWORK = {  # of `model` and `regression`
    64: ["model.dim=32", "model.train_lr=6.0e-4", "model.warmup_steps=200", "model.xray_encoder.width=32"],
    # with its autoencoder it stays below 15 MB in bfloat16: this is what the demo ships
    128: [
        "model.dim=32",
        "model.train_lr=6.0e-4",
        "model.warmup_steps=200",
        "model.xray_encoder.width=32",
        "model.dim_mults=[1,2,3]",
        "model.prior_rank=32",
    ],
}
OURS = [
    "model.dim_mults=[1,2,4]",
    "model.xray_encoder.blocks=1",
    "model.xray_encoder.feature_channels=64",
    "model.posterior_start=true",
    "model.condition_drop=0",
    "model.noise_first=0.5",
    "model.timestep_power=1",
    "model.snr_weight=0.2",
]
# what parts are taken from: quiet levels of noise drawn seldom and weighed as all others are
SELDOM_QUIET = ("model.timestep_power=2", "model.snr_weight=null")
FACTORISED = ["model.full_conv=false", "model.denoiser.blocks=2", "model.denoiser.depth_attention=true"]
REGRESSION = [
    "model.timestep_power=inf",
    "model.noise_first=0",
    "model.denoiser.regression=true",
    "model.posterior_start=false",
]
ANCESTOR = [  # the recipe of the first latent DDPM for X-ray to CTPA, on the same latents
    "model.dim=32",
    "model.dim_mults=[1,2,4,8]",
    *FACTORISED,
    "model.train_lr=1.0e-4",
    "model.prediction=epsilon",
    "model.zero_terminal_snr=false",
    "model.timestep_power=1",
    "model.loss_type=l1",
    "model.latent_scaling=range",
    "model.condition_channels=0",
    "model.prior_rank=0",
    "model.posterior_start=false",
    "model.condition_drop=0",
]
UNKNOWN_POSE = ("dataset.pose_noise=true",)  # X-rays at poses off the nominal one, which nobody is told
NO_PRIOR = ("model.prior_rank=0", "model.posterior_start=false")
MINUTES = {64: (20.0, 8.0), 128: (4.0, 4.0)}  # of a whole training on two cores, on one H100; of a part taken away
BASELINES = ("mean_volume", "nearest", "ridge")  # need no training seed
ONE_STEP = ["sampler=ddim", "sampler.steps=1", "sampler.antithetic=false", "samples=1"]
CLIPPED = ["sampler=ancestral", "+sampler.clip_sample=true", "sampler.antithetic=false", "samples=1"]  # as its sampler
STRIDED = [*CLIPPED, "sampler.steps=50"]


@dataclass(frozen=True)
class Method:
    """A training and what is judged of it.

    Args:
        train: overrides of `train/train_ddpm.py`.
        judge: overrides of `evaluation/evaluate.py`.
        judged: names of its methods to the names they get here.
        minutes: training budget on two CPU cores, at 128³ on one H100; the autoencoder not counted.
        trained_as: the method whose training it uses, where it has none of its own.
        trained_on, judged_on: overrides of the data, in training and in judging.
    """

    train: tuple[str, ...]
    judge: tuple[str, ...]
    judged: dict[str, str]
    minutes: float
    trained_as: str | None = None
    trained_on: tuple[str, ...] = ()
    judged_on: tuple[str, ...] = ()


def unknown_name(name: str) -> str:
    """What a row is called where X-rays have unknown poses."""
    return {"model": "unknown_pose", "model_sample": "unknown_pose_sample"}.get(name, f"{name}_unknown_pose")


def methods(size: int) -> dict[str, Method]:
    """The methods at an edge length, by name; `whole_8min` is named after its budget at 64³."""
    whole_minutes, part_minutes = MINUTES[size]
    ours = [*COMMON[size], *OURS, *NETWORK[size]]
    whole = {name: name for name in ("model", "model_sample", *BASELINES, "shuffled_xray")}
    sampled = ("samples=8",)
    parts = ("samples=4",)  # compared with one another alone: half the time of judging

    def named(name: str) -> dict[str, str]:
        return {"model": name, "model_sample": f"{name}_sample"}

    def without(name: str, *overrides: str) -> Method:
        return Method((*ours, *SELDOM_QUIET, *overrides), parts, named(name), part_minutes)

    def unknown(name: str, *overrides: str, judged: dict[str, str] | None = None, judge=sampled) -> Method:
        """Trained and judged on X-rays whose pose nobody knows."""
        judged = judged or named(name)
        poses = {"trained_on": UNKNOWN_POSE, "judged_on": UNKNOWN_POSE}
        return Method((*ours, *overrides), judge, judged, part_minutes, **poses)

    def on_unknown(trained_as: str, minutes: float, *overrides: str) -> Method:
        """Trained where poses are known, judged where they are not."""
        judged = {"model": f"{trained_as}_on_unknown_pose"}
        judge = sampled if trained_as == "model" else parts
        return Method((*ours, *overrides), judge, judged, minutes, trained_as=trained_as, judged_on=UNKNOWN_POSE)

    one = {"model": "regression"}
    ancestor = (*COMMON[size], *ANCESTOR)
    return {
        "model": Method(tuple(ours), sampled, whole, whole_minutes),
        "regression": Method((*ours, *REGRESSION), tuple(ONE_STEP), one, whole_minutes),
        "ancestor": Method(ancestor, tuple(STRIDED), {"model": "ancestor"}, whole_minutes),
        "ancestor_1000": Method(
            ancestor,
            (*CLIPPED, "cases=8"),
            {"model": "ancestor_1000"},
            whole_minutes,
            trained_as="ancestor",
        ),
        "whole_8min": without("whole_8min"),
        "quiet_levels": Method(tuple(ours), parts, named("quiet_levels"), part_minutes),
        "no_prior": without("no_prior", *NO_PRIOR),
        "no_lifting": without("no_lifting", "model.condition_channels=0"),
        "no_embedding": without("no_embedding", "model.global_embedding=false"),
        "with_tokens": without("with_tokens", "model.token_grid=8"),
        "constant_rays": without("constant_rays", "model.depth_bins=1"),
        "v_prediction": without("v_prediction", "model.prediction=v_prediction", "model.posterior_start=false"),
        "flow": without("flow", "model.prediction=flow", "model.posterior_start=false"),
        "no_posterior_start": without("no_posterior_start", "model.posterior_start=false"),
        "no_noise_first": without("no_noise_first", "model.noise_first=0"),
        "condition_drop": without("condition_drop", "model.condition_drop=0.1"),
        "factorised": without("factorised", *FACTORISED),
        # where poses are guessed the first part of a training goes without the linear guess of the volume: the default
        "unknown_pose": unknown("unknown_pose", judged={ours_name: unknown_name(ours_name) for ours_name in whole}),
        "unknown_pose_no_lifting": unknown("unknown_pose_no_lifting", "model.condition_channels=0"),
        "unknown_pose_regression": unknown(
            "unknown_pose_regression",
            *REGRESSION,
            judged={"model": "unknown_pose_regression"},
            judge=tuple(ONE_STEP),
        ),
        "unknown_pose_no_prior": unknown("unknown_pose_no_prior", *SELDOM_QUIET, *NO_PRIOR),
        "unknown_pose_no_prior_no_lifting": unknown(
            "unknown_pose_no_prior_no_lifting", *SELDOM_QUIET, *NO_PRIOR, "model.condition_channels=0"
        ),
        "unknown_pose_prior": unknown("unknown_pose_prior", *SELDOM_QUIET, "model.guess_from=0"),
        "unknown_pose_prior_no_lifting": unknown(
            "unknown_pose_prior_no_lifting", *SELDOM_QUIET, "model.guess_from=0", "model.condition_channels=0"
        ),
        "unknown_pose_prior_no_guess": unknown(
            "unknown_pose_prior_no_guess", *SELDOM_QUIET, "model.guess_from=0", "model.pose_guess=false"
        ),
        "model_on_unknown_pose": on_unknown("model", whole_minutes),
        "whole_8min_on_unknown_pose": on_unknown("whole_8min", part_minutes, *SELDOM_QUIET),
        "no_lifting_on_unknown_pose": on_unknown(
            "no_lifting", part_minutes, *SELDOM_QUIET, "model.condition_channels=0"
        ),
    }
