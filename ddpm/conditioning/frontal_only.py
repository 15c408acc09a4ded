"""Refuses pictures that are no frontal chest X-rays."""

from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.frontal_check import why_not_frontal


def refuse_other_pictures(xray: Float[Tensor, "b v 1 h w"], pose: Tensor | None, ids: list[str]) -> None:
    """Raises UserError for the first X-ray of unknown pose that is no frontal chest X-ray; DRRs have a pose.

    The first view is checked, unless it is missing (NaN).
    """
    unknown = [True] * len(xray) if pose is None else pose[:, 0].isnan().any(dim=-1).tolist()
    for image, name, checked in zip(xray[:, 0, 0].detach().float().cpu(), ids, unknown, strict=True):
        reason = why_not_frontal(image) if checked and not image.isnan().all() else None
        if reason:
            raise UserError(f"X-ray {name}: {reason}")
