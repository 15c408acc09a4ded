"""Checks that the data fit the checkpoint that is evaluated on them."""

import logging

from common.errors import UserError

log = logging.getLogger(__name__)


def check_protocol(data: dict, trained: dict) -> None:
    """Compares the protocols of data and checkpoint.

    Raises UserError for another HU window or volume size, warns of another data set, version, extent or view count.
    """
    for key in ("window", "volume_size"):
        ours, theirs = ("[" + ",".join(f"{float(x):g}" for x in part[key]) + "]" for part in (data, trained))
        if ours != theirs:
            raise UserError(
                f"dataset.{key}={ours}: the checkpoint was trained with {theirs}; set dataset.{key}={theirs} or give "
                "another checkpoint"
            )
    for key in ("dataset", "version", "extent", "views"):
        if key in data and key in trained and data[key] != trained[key]:
            log.warning("the checkpoint was trained on data with %s %s, these have %s", key, trained[key], data[key])


def own_split(datamodule, split: str):
    """The cases of a split; UserError if it has none, since training replaces an empty split by another one."""
    chosen = getattr(datamodule, split)
    if not (chosen.rows["split"] == split).all():
        remedy = "set dataset.test_share, dataset.val_share or the splits of its manifest, or evaluate another split"
        raise UserError(f"split={split}: the data set has no {split} case of its own; {remedy}")
    return chosen
