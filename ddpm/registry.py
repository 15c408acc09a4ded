"""The classes that a file may name: checkpoints, exported models and folders of diffusers build nothing else."""

from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from ddpm.classifiers.ct import CTClassifier
from ddpm.classifiers.xray import TorchvisionXrayClassifier, XrayClassifier
from ddpm.conditioning.lift import GridLift, RayLift
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.pose_regressor import PoseGuess
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
        PoseGuess,
    )
}
CLASSIFIERS = {cls.__name__: cls for cls in (CTClassifier, XrayClassifier, TorchvisionXrayClassifier)}
MOVED = {  # modules named in folders that were written before they moved
    "ddpm.unet": "ddpm.denoiser.unet",
    "ddpm.lifting": "ddpm.conditioning.lift",
    "ddpm.grid_lift": "ddpm.conditioning.lift",
    "ddpm.prior": "ddpm.conditioning.linear_prior",
    "ddpm.pose_guess": "ddpm.conditioning.pose_regressor",
    "ddpm.latent.vae": "ddpm.latent.slice_vae",
    "ddpm.xray_encoder.densenet": "ddpm.xray_encoder.xrv_densenet",
}
