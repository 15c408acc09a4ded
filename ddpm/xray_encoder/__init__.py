"""X-ray encoders behind one contract: an image in, a global embedding and a feature map out."""

from ddpm.xray_encoder.cnn import CNNXrayEncoder
from ddpm.xray_encoder.contract import XrayEncoder, XrayFeatures

__all__ = ["CNNXrayEncoder", "XrayEncoder", "XrayFeatures"]
