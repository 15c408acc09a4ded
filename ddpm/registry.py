"""Names of the parts of a model, and the classes that a checkpoint or a folder of diffusers may name."""

from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from ddpm.classifiers.ct import CTClassifier
from ddpm.classifiers.xray import TorchvisionXrayClassifier, XrayClassifier
from ddpm.conditioning.lift import GridLift, RayLift
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.pose_regressor import PoseRegressor
from ddpm.conditioning.view_priors import ViewPriors
from ddpm.consistency.projection_consistency import ProjectionConsistency
from ddpm.denoiser.unet import UNet3D
from ddpm.diffusion.training_spread import TrainingSpread
from ddpm.latent import DecoderResidual, MaisiLatents, SliceVAELatents, VQGANLatents
from ddpm.xray_encoder import ENCODERS
from vq_gan_3d import VQGAN3D

TRAINED = ("denoiser", "xray_encoder", "lift")  # parts that gradients train and that may have adapters
FITTED = ("prior", "pose_regressor", "consistency")  # parts that are fitted in closed form
MEASURED = ("decoder_residual", "training_spread")  # parts that are measured on training cases
FROZEN = ("latent_encoder", *MEASURED)  # the encoder of the first stage, and these
NETWORKS = (*TRAINED, *FITTED, *FROZEN)
OPTIONAL = ("lift", *FITTED, *MEASURED)  # parts that a model may lack

SCHEDULERS = {cls.__name__: cls for cls in (DDPMScheduler, FlowMatchEulerDiscreteScheduler)}  # of training
LATENTS = (VQGANLatents, SliceVAELatents, MaisiLatents)
PARTS = {cls.__name__: cls for cls in (UNet3D, RayLift, GridLift, *LATENTS)}  # of a pipeline
PARTS |= {cls.__name__: cls for cls in (LinearPrior, ViewPriors, PoseRegressor, ProjectionConsistency)}
PARTS |= {**ENCODERS, "DecoderResidual": DecoderResidual, "TrainingSpread": TrainingSpread}
CLASSIFIERS = {cls.__name__: cls for cls in (CTClassifier, XrayClassifier, TorchvisionXrayClassifier)}
CLASSES = {"VQGAN3D": VQGAN3D, **PARTS, **SCHEDULERS, **CLASSIFIERS}  # of a checkpoint

# Names in files of older versions -> present names
MOVED = {  # modules
    "ddpm.unet": "ddpm.denoiser.unet",
    "ddpm.lifting": "ddpm.conditioning.lift",
    "ddpm.grid_lift": "ddpm.conditioning.lift",
    "ddpm.prior": "ddpm.conditioning.linear_prior",
    "ddpm.pose_guess": "ddpm.conditioning.pose_regressor",
    "ddpm.conditioning.projection_consistency": "ddpm.consistency.projection_consistency",
    "ddpm.latent.vae": "ddpm.latent.slice_vae",
    "ddpm.xray_encoder.densenet": "ddpm.xray_encoder.xrv_densenet",
}
RENAMED_CLASSES = {"PoseGuess": "PoseRegressor"}
RENAMED_PARTS = {"pose_guess": "pose_regressor"}


def upgrade_config(class_name: str, config: dict) -> dict:
    """Constructor arguments of a part with their present names, such as `condition` for `condition_channels`."""
    if class_name != "UNet3D":
        return config
    config = dict(config)
    flat = ("condition_channels", "embedding_dim", "token_channels", "token_grid")
    if condition := {name.removeprefix("condition_"): config.pop(name) for name in flat if name in config}:
        config["condition"] = condition
    residual, preconditioning = config.pop("residual", False), config.pop("posterior", None)
    if isinstance(config.get("prior"), bool):
        use = {"residual": residual, "preconditioning": preconditioning}
        config["prior"] = use if config["prior"] else None
    use = config.get("prior") or {}
    if use.get("preconditioning"):  # written before targets other than clean latents could be preconditioned
        config["prior"] = {**use, "preconditioning": {"prediction": "sample", **use["preconditioning"]}}
    if "blind" in config:
        config["regression"] = config.pop("blind")
    return config
