"""X-ray encoders behind one contract: an image in, a global embedding and a feature map out."""

from ddpm.xray_encoder.biomedclip import BiomedCLIPXrayEncoder
from ddpm.xray_encoder.cnn import CNNXrayEncoder
from ddpm.xray_encoder.contract import XrayEncoder, XrayFeatures
from ddpm.xray_encoder.densenet import TorchXRayVisionEncoder
from ddpm.xray_encoder.transformer import CLIPXrayEncoder, RadDINOXrayEncoder
from ddpm.xray_encoder.volume import VolumeEncoder

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
