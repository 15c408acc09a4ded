"""The data set of a command, by default that on which its checkpoint was trained."""

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from common.cli import CONFIG, recompose
from common.errors import UserError
from common.value_ranges import leaves
from dataset.imaging.forward_model import REMOVED, ForwardModel

SIZES = ("volume_size", "window", "xray_size", "views", "align", "remove_table")  # on which every data set depends
NOT_DATA = ("prepare_workers", "film_augment", "source")  # keys and nodes that an evaluation does not take

log = logging.getLogger(__name__)


def dataset_given() -> bool:
    """Whether the command line, or an experiment that it names, chooses the data set."""
    return not HydraConfig.initialized() or bool({"dataset", "experiment"} & given_keys())


def given_keys() -> set[str]:
    """Keys of the command line."""
    if not HydraConfig.initialized():
        return set()
    return {word.lstrip("+~").partition("=")[0] for word in HydraConfig.get().overrides.task}


def take_data_of_checkpoint(cfg: DictConfig, command: str, protocol: dict, checkpoint: Path) -> None:
    """Fills `cfg.dataset` from the protocol of a checkpoint and from the config of its run, where it stands beside.

    Values of the command line count more. With `dataset=` of the command line only sizes, window and alignment come
    from the checkpoint; with `experiment=` nothing does. UserError for a key that the data set lacks.
    """
    if not HydraConfig.initialized() or "dataset" not in HydraConfig.get().runtime.choices:
        return  # not a command, or one that repeats a stored config
    words = list(HydraConfig.get().overrides.task)
    keys = given_keys()
    name, chosen = protocol.get("dataset"), "dataset" in keys
    if "experiment" in keys:
        return
    if not chosen and not (CONFIG / "dataset" / f"{name}.yaml").is_file():
        log.warning("the checkpoint was trained on %s, which is no option of dataset=; give dataset=<option>", name)
        return
    own = [word for word in words if word.startswith(("dataset=", "dataset.", "dataset/"))]
    try:
        data = recompose(command, own if chosen else [f"dataset={name}", *own])
    except HydraException as error:
        raise UserError(
            f"{' '.join(own)}: the checkpoint was trained on dataset={name}, which does not take this "
            f"({str(error).splitlines()[0]}); give dataset=<option> to choose another data set"
        ) from error
    taken = _trained(protocol, {} if chosen else _of_run(checkpoint)) | ({} if chosen else _xrays(protocol))
    for key, _ in leaves(data.dataset):
        if key in taken and f"dataset.{key}" not in keys:
            OmegaConf.update(data, f"dataset.{key}", taken[key])
    with open_dict(cfg):
        cfg.dataset = data.dataset
    root = cfg.dataset.get("root_dir")
    size = "x".join(map(str, cfg.dataset.volume_size))
    what = "sizes and window" if chosen else "all"
    print(f"data: {cfg.dataset.name}{f' in {root}' if root else ''}, {size} voxels ({what} as in the training)")


def _trained(protocol: dict, run: dict[str, Any]) -> dict[str, Any]:
    """Values of `dataset` by key."""
    found = {**run, **{key: protocol[key] for key in SIZES if protocol.get(key) is not None}}
    if not run and str(protocol.get("dataset", "")).startswith("phantom"):
        found |= {
            key: protocol[key] for key in ("seed", "extent", "pe_share", "sign_rate", "test_from") if key in protocol
        }
    if "resampling" in protocol:
        found["spacing"] = protocol["spacing"] if protocol["resampling"] == "spacing" else None
    return found


def _xrays(protocol: dict[str, Any]) -> dict[str, Any]:
    """Keys of rendered X-rays; an earlier version had no noise, and phantoms were rendered from their own volume."""
    model = ForwardModel.of_drrs(protocol)
    if model is None:
        return {}
    drr = {
        "drr_image": model.image,
        "drr_attenuation": model.attenuation,
        "drr_remove_iodine": model.iodine == REMOVED,
    }
    return {**drr, "drr_photons": model.photons, "oversample": protocol.get("oversample", 1)}


def _of_run(checkpoint: Path) -> dict[str, Any]:
    """Plain values of `dataset` in the config of the run of a checkpoint; {} without one. Nothing in it is run."""
    file = Path(checkpoint).parent.parent / ".hydra" / "config.yaml"
    if not file.is_file():
        return {}
    stored = OmegaConf.load(file).get("dataset", {})
    return {key: value for key, value in leaves(stored) if key.partition(".")[0] not in NOT_DATA}
