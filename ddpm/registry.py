"""The classes that a file may name: checkpoints, exported models and folders of diffusers build nothing else."""

from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from ddpm.classifier import CTClassifier
from ddpm.grid_lift import GridLift
from ddpm.latent import SliceVAELatents, VQGANLatents
from ddpm.lifting import RayLift
from ddpm.pose_guess import PoseGuess
from ddpm.prior import LinearPrior
from ddpm.unet import UNet3D
from ddpm.xray_classifier import TorchvisionXrayClassifier, XrayClassifier
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
