"""X-ray encoders: from an image to a global embedding and a feature map."""

from ddpm.xray_encoder.biomedclip import BiomedCLIPXrayEncoder
from ddpm.xray_encoder.cnn import CNNXrayEncoder
from ddpm.xray_encoder.hf import HFXrayEncoder
from ddpm.xray_encoder.transformer import CLIPXrayEncoder, RadDINOXrayEncoder
from ddpm.xray_encoder.volume import VolumeEncoder
from ddpm.xray_encoder.xrv_densenet import TorchXRayVisionEncoder

CLASSES = (CNNXrayEncoder, BiomedCLIPXrayEncoder, CLIPXrayEncoder, RadDINOXrayEncoder, TorchXRayVisionEncoder,
           HFXrayEncoder, VolumeEncoder)  # fmt: skip
ENCODERS = {cls.__name__: cls for cls in CLASSES}
