"""The class and the functions that the config of a MONAI bundle names."""

from xray2ct.rooms import load

BUNDLE = load("evaluation.sharing.monai_bundle")
XrayToCT, filled, infer = BUNDLE.XrayToCT, BUNDLE.filled, BUNDLE.infer
