"""Checks that the data fit the checkpoint that is evaluated on them."""

import logging

from common.errors import UserError

log = logging.getLogger(__name__)


def check_protocol(data: dict, trained: dict) -> None:
    """Compares the protocols of data and checkpoint; warns of another data set, version, extent or number of views.

    Raises:
        UserError: another HU window or volume size, naming both.
    """
    for key in ("window", "volume_size"):
        ours, theirs = [float(x) for x in data[key]], [float(x) for x in trained[key]]
        if ours != theirs:
            shown = "[" + ",".join(f"{x:g}" for x in theirs) + "]"
            raise UserError(
                f"dataset.{key}={[f'{x:g}' for x in ours]}: the checkpoint was trained with {shown}; "
                f"set dataset.{key}={shown} or take another checkpoint".replace("'", "")
            )
    for key in ("dataset", "version", "extent", "views"):
        if key in data and key in trained and data[key] != trained[key]:
            log.warning("the checkpoint was trained on data with %s %s, these have %s", key, trained[key], data[key])


def own_split(datamodule, split: str):
    """The cases of a split; for training an empty split borrows those of another one, which no result may use.

    Raises:
        UserError: a split without cases of its own.
    """
    chosen = getattr(datamodule, split)
    if not (chosen.rows["split"] == split).all():
        remedy = "set dataset.test_share, dataset.val_share or the splits of its manifest, or evaluate another split"
        raise UserError(f"split={split}: the data set has no {split} case of its own; {remedy}")
    return chosen
