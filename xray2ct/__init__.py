"""The public API: `XrayToCTPipeline` from a chest X-ray to CT volumes, and what it returns and raises."""

from common.errors import UserError
from evaluation.generation.public_pipeline import XrayToCTPipeline
from evaluation.generation.synthetic_ct import SyntheticCT, SyntheticCTs

__all__ = ["SyntheticCT", "SyntheticCTs", "UserError", "XrayToCTPipeline"]
