"""X-ray encoders: from an image to a global embedding and a feature map."""

from ddpm.xray_encoder.base import XrayEncoder, XrayFeatures
from ddpm.xray_encoder.biomedclip import BiomedCLIPXrayEncoder
from ddpm.xray_encoder.cnn import CNNXrayEncoder
from ddpm.xray_encoder.transformer import CLIPXrayEncoder, RadDINOXrayEncoder
from ddpm.xray_encoder.volume import VolumeEncoder
from ddpm.xray_encoder.xrv_densenet import TorchXRayVisionEncoder

__all__ = [
    "BiomedCLIPXrayEncoder",
    "CLIPXrayEncoder",
    "CNNXrayEncoder",
    "RadDINOXrayEncoder",
    "TorchXRayVisionEncoder",
    "VolumeEncoder",
    "XrayEncoder",
    "XrayFeatures",
]
