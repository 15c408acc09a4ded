"""Where a run writes, and which run `model.resume` means."""

import logging
import os
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dataset.errors import UserError
from ddpm.checkpoint import read
from ddpm.latent.factory import newest_checkpoint

log = logging.getLogger(__name__)

RUN_FOLDER = "XRAY2CT_RUN_FOLDER"  # Lightning starts the other processes of a node with our environment


def run_folder(
    stage: str, results_folder: str, postfix: str = "", resume: str | None = None
) -> tuple[Path, Path | None]:
    """The folder of this run and the checkpoint it goes on from.

    A new run gets `<results_folder>/<date>_<time>[_postfix]`; a resumed one goes on in its own folder.

    Args:
        stage: `vqgan` or `ddpm`, which a checkpoint to resume must be of.
        resume: None starts afresh; `auto` goes on with the newest run under `results_folder`, or starts one where
            there is none; a path names a checkpoint.

    Raises:
        UserError: if the checkpoint of `resume` does not exist, cannot be read or is of another stage.
    """
    checkpoint = None
    if resume == "auto":
        checkpoint = newest_checkpoint(results_folder)
        if checkpoint is None:
            log.warning("model.resume=auto: no checkpoint under %s yet, a new run starts", results_folder)
    elif resume:
        checkpoint = Path(resume)
        if not checkpoint.is_file():
            raise UserError(f"model.resume={resume}: no such checkpoint; model.resume=auto takes the newest run")
    if checkpoint is not None:
        header, _, _ = read(checkpoint)
        if header["stage"] != stage:
            raise UserError(f"model.resume={checkpoint}: of the stage {header['stage']}, this command trains {stage}")
        log.warning("resuming from %s", checkpoint)
        if checkpoint.parent.name == "checkpoints":
            return checkpoint.parent.parent, checkpoint
    if RUN_FOLDER in os.environ:  # a further process of the same run
        return Path(os.environ[RUN_FOLDER]), checkpoint
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]
    folder = Path(results_folder) / (f"{stamp}_{postfix}" if postfix else stamp)
    os.environ[RUN_FOLDER] = str(folder)
    return folder, checkpoint


def save_config(cfg: DictConfig, folder: Path) -> None:
    """The composed config of a run, which `--config-path <run>/.hydra --config-name config` repeats."""
    path = folder / ".hydra" / "config.yaml"
    if not path.exists():  # a resumed run keeps the config that it began with
        path.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, path)
