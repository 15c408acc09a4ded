"""The public API: `XrayToCTPipeline` from a chest X-ray to CT volumes, and what it returns and raises."""

from typing import TYPE_CHECKING, Any

from xray2ct.rooms import library_message, load

if TYPE_CHECKING:
    from common.errors import UserError
    from evaluation.generation.public_pipeline import XrayToCTPipeline, from_pretrained
    from evaluation.generation.synthetic_ct import SyntheticCT, SyntheticCTs

PLACES = {
    "SyntheticCT": "evaluation.generation.synthetic_ct",
    "SyntheticCTs": "evaluation.generation.synthetic_ct",
    "UserError": "common.errors",
    "XrayToCTPipeline": "evaluation.generation.public_pipeline",
    "from_pretrained": "evaluation.generation.public_pipeline",
}
__all__ = ["SyntheticCT", "SyntheticCTs", "UserError", "XrayToCTPipeline", "from_pretrained"]  # those of PLACES


def __getattr__(name: str) -> Any:
    """Loads a class or function when it is first used, so that commands do not load what they do not need."""
    if name not in PLACES:
        raise AttributeError(f"module 'xray2ct' has no attribute '{name}'; it has {', '.join(__all__)}")
    try:
        return getattr(load(PLACES[name]), name)
    except RuntimeError as error:  # of torchvision, wrapped by transformers and diffusers
        if (line := library_message(error)) is None:
            raise
    raise ImportError(line)
