"""The lung guide of a generator, and what the lungs found in a film ask of its volume."""

import functools
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import nn

from common.errors import UserError
from common.files import ROOT
from dataset.imaging.geometry import fill_unknown
from dataset.xray.film_lungs import find_film_lungs
from dataset.xray.lung_alignment import LungMap
from dataset.xray.lung_depth import lung_depth
from ddpm.consistency.guide_file import fingerprint, load_guide
from ddpm.consistency.lung_guide import LungGuide, LungUpdate

SHIPPED_GUIDE = ROOT / "assets" / "networks" / "lung_guide.safetensors"  # of the autoencoder of the shipped weights
SHIPPED_NAME, AUTO, OFF = "shipped", "auto", "off"  # in place of a file; auto: the shipped one where it suits
_FINGERPRINTS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

load_guide_once = functools.cache(load_guide)


def find_guide(chosen: str | Path | None, pipeline) -> LungGuide | None:
    """The guide of a file, or the included one for `shipped`; None for None and `off`.

    `auto` is the included one for a model that it suits, and None for others. Raises UserError for a given one that
    suits another latent encoder, and for a model with a pose regressor, which moves films again.
    """
    if chosen in (None, OFF):
        return None
    if pipeline.pose_regressor is not None:
        if chosen == AUTO:
            return None
        raise UserError(f"lung_guide={chosen}: the checkpoint has a pose regressor, which moves films; set off")
    guide, suits = load_guide_once(SHIPPED_GUIDE if chosen in (SHIPPED_NAME, AUTO) else Path(chosen))
    encoders = [part.latent_encoder for part in getattr(pipeline, "members", [pipeline])]
    if any(_fingerprint(encoder) != suits for encoder in encoders):
        if chosen == AUTO:
            return None
        raise UserError(f"lung_guide={chosen}: made for another autoencoder than the checkpoint's; make one with "
                        "train/fit_parts.py parts=[lung_guide], or set off")  # fmt: skip
    return guide.to(pipeline.denoiser.device)


def lung_update(guide: LungGuide, given, alignment: LungMap) -> LungUpdate:
    """The update by the lungs that the network finds in a film, a `GeneratorInput` that `alignment` has aligned."""
    depth = lung_depth(find_film_lungs(given.original), alignment)
    return guide.within_bounds(depth.low, depth.high, fill_unknown(given.pose, tuple(given.extent))[0], given.extent)


def _fingerprint(encoder: nn.Module) -> str:
    if encoder not in _FINGERPRINTS:
        _FINGERPRINTS[encoder] = fingerprint(encoder)
    return _FINGERPRINTS[encoder]
