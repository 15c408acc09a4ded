"""Where a run writes, and which run `model.resume` means."""

import logging
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dataset.errors import UserError
from ddpm.latent.factory import newest_checkpoint

log = logging.getLogger(__name__)


def run_folder(results_folder: str, postfix: str = "", resume: str | None = None) -> tuple[Path, Path | None]:
    """The folder of this run and the checkpoint it goes on from.

    A new run gets `<results_folder>/<date>_<time>[_postfix]`; a resumed one goes on in its own folder.

    Args:
        resume: None starts afresh; `auto` goes on with the newest run under `results_folder`, or starts one where
            there is none; a path names a checkpoint.

    Raises:
        UserError: if the path of `resume` does not exist.
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
        log.warning("resuming from %s", checkpoint)
        return checkpoint.parent.parent, checkpoint
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]
    return Path(results_folder) / (f"{stamp}_{postfix}" if postfix else stamp), None


def save_config(cfg: DictConfig, folder: Path) -> None:
    """The composed config of a run, which `--config-path <run>/.hydra --config-name config` repeats."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
