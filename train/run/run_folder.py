"""Where a run writes, which run `model.resume` means, and whether its config is still the same."""

import logging
import os
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from common.files import newest, newest_checkpoint
from common.folder_lock import hold
from common.renamed_keys import KEPT
from train.distributed.processes import first_process
from train.run.checkpoint_io import LAST, PREVIOUS, whole_checkpoint

log = logging.getLogger(__name__)

RUNS_KEY = "model.results_folder (of a VQ-GAN model.default_root_dir)"
RUN_FOLDER = "XRAY2CT_RUN_FOLDER"  # Lightning starts the other processes of a node with our environment
_MADE_BY = "XRAY2CT_RUN_FOLDER_MADE_BY"  # which process of this machine has set it
NO_PART_IN_WEIGHTS = (  # keys, or groups of them, that a resumed run may change without a word
    "model.resume",
    "model.resume_changed",
    "model.results_folder",
    "model.default_root_dir",
    "model.results_folder_postfix",
    "model.num_workers",
    "model.memory.gradient_checkpointing",
    "model.compile",
    "model.memory.cache_latents_gb",
    "model.memory.cache_volumes_gb",
    "model.picture_every",
    "model.checkpoint_every",
    "model.save_and_sample_every",
    "model.latent.search",
    "dataset.cache_dir",
    "dataset.source",  # composed from the flat keys of dataset
    "dataset.augmentation",
    "dataset.prepare_workers",
    "trainer.log_every_n_steps",
    "logger",
    "hydra",
)


def run_folder(
    stage: str, results_folder: str, postfix: str = "", resume: str | None = None
) -> tuple[Path, Path | None]:
    """The folder of this run and the checkpoint it goes on from.

    A new run gets `<results_folder>/<date>_<time>[_postfix]`, or what `XRAY2CT_RUN_FOLDER` says, as in jobs of a
    scheduler: if that folder has a checkpoint, the run goes on from it. A resumed run goes on in its own folder.
    Where `last.ckpt` is damaged, the one before it is taken, and a line says so.

    Args:
        stage: `vqgan` or `ddpm`, which a checkpoint to resume must be of.
        resume: None starts afresh; `auto` goes on with the newest run under `results_folder`, or starts one where
            there is none; a path names a checkpoint.

    Raises:
        UserError: if the checkpoint of `resume` does not exist, cannot be read or is of another stage, or if another
            process is writing in the folder of the run.
    """
    checkpoint, given = None, _given_folder()
    if given is not None and (found := _last_in(given)) is not None:  # a job that was requeued
        checkpoint = found
    elif resume == "auto":
        checkpoint = newest_checkpoint(results_folder) or _newest_previous(results_folder)
        if checkpoint is None:
            log.warning("model.resume=auto: no checkpoint under %s yet, a new run starts", results_folder)
    elif resume:
        checkpoint = Path(resume)
        if not checkpoint.is_file():
            raise UserError(f"model.resume={resume}: no such checkpoint; model.resume=auto takes the newest run")
    if checkpoint is not None:
        own = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
        if own is not None and first_process():
            hold(own, RUNS_KEY)
        checkpoint, header = whole_checkpoint(checkpoint)
        if header["stage"] != stage:
            raise UserError(f"model.resume={checkpoint}: of the stage {header['stage']}, this command trains {stage}")
        log.warning("resuming from %s", checkpoint)
        if own is not None:
            return own, checkpoint
    if given is not None:
        return given, checkpoint
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]
    folder = Path(results_folder) / (f"{stamp}_{postfix}" if postfix else stamp)
    os.environ[RUN_FOLDER], os.environ[_MADE_BY] = str(folder), f"{folder}|{os.getpid()}"
    return folder, checkpoint


def _given_folder() -> Path | None:
    """The folder that another process, or the config of a job, has set for this run.

    What an earlier run of this very process has set is not meant: a sweep has a folder for each.
    """
    folder = os.environ.get(RUN_FOLDER)
    return None if not folder or os.environ.get(_MADE_BY) == f"{folder}|{os.getpid()}" else Path(folder)


def _last_in(folder: Path) -> Path | None:
    paths = [folder / "checkpoints" / name for name in (LAST, PREVIOUS)]
    return next((path for path in paths if path.is_file()), None)


def refuse_changes(cfg: DictConfig, folder: Path, go_on: bool) -> None:
    """Before a run is resumed: its config must be the one that it began with, or the user says that it may differ.

    Raises:
        UserError: listing what differs, unless `go_on`; what does not touch the weights may differ.
    """
    path = config_file(folder)
    if not path.is_file():
        return
    before, now = (_flat(config) for config in (OmegaConf.load(path), cfg))
    words = [
        f"{key} was {before.get(key, 'not there')}, is {now.get(key, 'not there')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, ...) != now.get(key, ...)
    ]
    if words and not go_on:
        raise UserError(
            f"model.resume: the config differs from that of {folder}: {'; '.join(words)}. Give the values that were, "
            "or go on all the same with model.resume_changed=true"
        )
    if words:
        log.warning("model.resume_changed: going on although %s", "; ".join(words))


def save_config(cfg: DictConfig, folder: Path) -> None:
    """The composed config of a run, which `--config-path <run>/.hydra --config-name config` repeats.

    A run that is resumed under another config keeps those before as `config_1.yaml` and so on.

    Raises:
        UserError: if the folder cannot be written, or another process writes in it.
    """
    if not first_process():
        return
    hold(folder, RUNS_KEY)
    path = config_file(folder)
    cfg = cfg.copy()
    for key, value in (("resume", None), ("resume_changed", False)):  # repeated, it is a run of its own
        if OmegaConf.select(cfg, f"model.{key}") is not None:
            OmegaConf.update(cfg, f"model.{key}", value)
    if path.exists():
        if _flat(OmegaConf.load(path)) == _flat(cfg):
            return
        number = next(i for i in range(1, 1_000_000) if not path.with_name(f"config_{i}.yaml").exists())
        path.rename(path.with_name(f"config_{number}.yaml"))
    path.parent.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, path)


def config_file(folder: Path) -> Path:
    """Where the composed config of a run lies."""
    return folder / ".hydra" / "config.yaml"


def _newest_previous(results_folder: str) -> Path | None:
    """Where no `last.ckpt` is left: the newest one that was before it."""
    found = [path for path in Path(results_folder).glob(f"**/{PREVIOUS}") if path.is_file()]
    previous = newest(found)
    if previous is not None:
        log.warning("%s is gone; the checkpoint before it is taken", previous.with_name(LAST))
    return previous


def _flat(config: DictConfig) -> dict[str, object]:
    """Every value that could touch the weights, by its dotted key, under its present name."""
    found: dict[str, object] = {}

    def collect(tree, key: str) -> None:
        key = KEPT.get(key, key)
        if any(key == name or key.startswith(f"{name}.") for name in NO_PART_IN_WEIGHTS):
            return
        if isinstance(tree, dict) and tree:
            for name, value in tree.items():
                collect(value, f"{key}.{name}" if key else str(name))
        else:
            found[key] = tree

    collect(OmegaConf.to_container(config, resolve=True), "")
    return found
