"""The classes that a file may name: checkpoints, exported models and folders of diffusers build nothing else."""

from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from ddpm.classifiers.ct import CTClassifier
from ddpm.classifiers.xray import TorchvisionXrayClassifier, XrayClassifier
from ddpm.conditioning.lift import GridLift, RayLift
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.pose_regressor import PoseRegressor
from ddpm.denoiser.unet import UNet3D
from ddpm.latent import SliceVAELatents, VQGANLatents
from ddpm.xray_encoder import (
    BiomedCLIPXrayEncoder,
    CLIPXrayEncoder,
    CNNXrayEncoder,
    RadDINOXrayEncoder,
    TorchXRayVisionEncoder,
    VolumeEncoder,
)

SCHEDULERS = {cls.__name__: cls for cls in (DDPMScheduler, FlowMatchEulerDiscreteScheduler)}  # of training
PARTS = {  # of a generator; a VQ-GAN alone is no part of one
    cls.__name__: cls
    for cls in (
        UNet3D,
        RayLift,
        GridLift,
        CNNXrayEncoder,
        BiomedCLIPXrayEncoder,
        CLIPXrayEncoder,
        RadDINOXrayEncoder,
        TorchXRayVisionEncoder,
        VolumeEncoder,
        VQGANLatents,
        SliceVAELatents,
        LinearPrior,
        PoseRegressor,
    )
}
CLASSIFIERS = {cls.__name__: cls for cls in (CTClassifier, XrayClassifier, TorchvisionXrayClassifier)}
MOVED = {  # old module names in folders -> today's
    "ddpm.unet": "ddpm.denoiser.unet",
    "ddpm.lifting": "ddpm.conditioning.lift",
    "ddpm.grid_lift": "ddpm.conditioning.lift",
    "ddpm.prior": "ddpm.conditioning.linear_prior",
    "ddpm.pose_guess": "ddpm.conditioning.pose_regressor",
    "ddpm.latent.vae": "ddpm.latent.slice_vae",
    "ddpm.xray_encoder.densenet": "ddpm.xray_encoder.xrv_densenet",
}
RENAMED_CLASSES = {"PoseGuess": "PoseRegressor"}
RENAMED_PARTS = {"pose_guess": "pose_regressor"}  # old part names -> today's


def upgrade_config(class_name: str, config: dict) -> dict:
    """Constructor arguments of a part, with the names of today where an older version wrote them."""
    return _upgrade_unet(config) if class_name == "UNet3D" else config


def _upgrade_unet(config: dict) -> dict:
    """Groups the flat arguments of older versions, such as `condition_channels` into `condition`."""
    config = dict(config)
    flat = ("condition_channels", "embedding_dim", "token_channels", "token_grid")
    if condition := {name.removeprefix("condition_"): config.pop(name) for name in flat if name in config}:
        config["condition"] = condition
    residual, preconditioning = config.pop("residual", False), config.pop("posterior", None)
    if isinstance(config.get("prior"), bool):
        use = {"residual": residual, "preconditioning": preconditioning}
        config["prior"] = use if config["prior"] else None
    if "blind" in config:
        config["regression"] = config.pop("blind")
    return config
