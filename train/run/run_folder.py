"""The folder of a run, the run that `model.resume` continues, and the comparison of its config."""

import logging
import os
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from common import environment
from common.cli import sweep_run
from common.errors import UserError
from common.files import newest, newest_checkpoint
from common.folder_lock import hold
from common.renamed_keys import present_name
from train.distributed.processes import first_process, print_once
from train.run.checkpoint_io import LAST, PREVIOUS, whole_checkpoint

log = logging.getLogger(__name__)

ABSENT = {  # what a run did whose config is older than the key
    "model.block_pca": False,
    "model.quantise": True,
    "model.network.block_pca": False,
    "model.network.quantise": True,
    "model.prior.fill_rank": 0,
    "model.maisi_ckpt": None,
    "model.latent.maisi_ckpt": None,
    "model.xray_encoder.mask": False,
    "sampler.decoder_residual": True,
    "model.conditioning.view_drop": None,
    "sampler.consistency": None,
    "dataset.ap_share": 0.0,
    "dataset.drr_attenuation": "bilinear",
    "dataset.drr_photons": None,
    "dataset.oversample": 1,
    "dataset.morphs": 0,
    "dataset.phantoms": 0,
    **{f"dataset.film.{key}": 0.0 for key in ("roll", "curve", "tilt", "crop", "letterbox", "unmarked")},
}
VIEW_DROP = "model.conditioning.view_drop"  # runs older than the key dropped no view, the default does so with two
RUNS_KEY = "model.results_folder"
LENGTH = "model.train_num_steps"
RUN_FOLDER = "XRAY2CT_RUN_FOLDER"  # Lightning starts the other processes of a node with this environment
_MADE_BY = "XRAY2CT_RUN_FOLDER_MADE_BY"  # the process of this machine that has set it
NO_PART_IN_WEIGHTS = (  # keys, or groups of them, that a resumed run may change
    "checkpoint",  # of a distillation: its teacher, which a checksum identifies
    "output",
    "overwrite",
    "model.resume",
    "model.resume_changed",
    "model.results_folder",
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
    """The folder of this run and the checkpoint that it resumes from.

    A new run gets `<results_folder>/<date>_<time>[_postfix]`, in a sweep a folder named by its values, or the folder
    `XRAY2CT_RUN_FOLDER`, as in jobs of a scheduler; if that has a checkpoint, the run resumes it. A resumed run
    continues in its own folder. If `last.ckpt` is damaged, the run resumes from the previous one, with a warning.

    Args:
        stage: `vqgan`, `ddpm`, `classifier`, `lungs` or `distill`, the required stage of a checkpoint.
        resume: None starts a new run; `auto` resumes the newest run under `results_folder`, or starts one if there is
            none; a path names a checkpoint.

    Raises UserError if the checkpoint of `resume` does not exist, cannot be read or has another stage, or if another
    process is writing in the folder of the run.
    """
    checkpoint, given = None, os.environ.get(RUN_FOLDER)
    # a sweep in one process has a folder per run: an earlier run of this process has set the variable
    given = None if not given or os.environ.get(_MADE_BY) == f"{given}|{os.getpid()}" else Path(given)
    saved = [] if given is None else [given / "checkpoints" / name for name in (LAST, PREVIOUS)]
    if found := [path for path in saved if path.is_file()]:  # a requeued job
        checkpoint = found[0]
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
    parent, name = sweep_run() or (Path(results_folder), datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3])
    folder = parent / (f"{name}_{postfix}" if postfix else name)
    os.environ[RUN_FOLDER], os.environ[_MADE_BY] = str(folder), f"{folder}|{os.getpid()}"
    return folder, checkpoint


def refuse_changes(cfg: DictConfig, folder: Path, allow: bool) -> None:
    """Compares the config with that of the resumed run, without keys that have no effect on the weights.

    A larger number of batches is no difference. Raises UserError listing the differences, unless `allow`.
    """
    path = config_file(folder)
    if not path.is_file():
        return
    before, now = (_flat(config) for config in (OmegaConf.load(path), cfg))
    absent = ABSENT | ({VIEW_DROP: 0.0} if before.get("dataset.views") == 2 else {})
    before = {key: value for key, value in absent.items() if key in now} | before
    steps = [config.get(LENGTH) for config in (before, now)]
    if all(isinstance(number, int) for number in steps) and steps[0] < steps[1]:
        print_once(f"{LENGTH} was {steps[0]}, is {steps[1]}: the run goes on to the new end")
        before[LENGTH] = steps[1]
    changes = [
        f"{key} was {before.get(key, 'not there')}, is {now.get(key, 'not there')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, ...) != now.get(key, ...)
    ]
    if changes and not allow:
        raise UserError(
            f"model.resume: the config differs from that of {folder}: {'; '.join(changes)}. Give the former values, "
            "or continue with model.resume_changed=true"
        )
    if changes:
        log.warning("model.resume_changed: continuing although %s", "; ".join(changes))


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Writes the composed config of a run, which `--config-path <run>/.hydra --config-name config` repeats.

    A run that is resumed with another config keeps the former ones as `config_1.yaml` and so on.

    Raises UserError if the folder cannot be written, or another process writes in it.
    """
    if not first_process():
        return
    hold(folder, RUNS_KEY)
    path, cfg = config_file(folder), cfg.copy()
    for key, value in (("resume", None), ("resume_changed", False)):  # repeating it starts a new run
        if OmegaConf.select(cfg, f"model.{key}") is not None:
            OmegaConf.update(cfg, f"model.{key}", value)
    if path.exists():
        if _flat(OmegaConf.load(path)) == _flat(cfg):
            return
        number = next(i for i in range(1, 1_000_000) if not path.with_name(f"config_{i}.yaml").exists())
        path.rename(path.with_name(f"config_{number}.yaml"))
    environment.save_config(cfg, folder)


def config_file(folder: Path) -> Path:
    """The file of the composed config of a run."""
    return folder / ".hydra" / "config.yaml"


def _newest_previous(results_folder: str) -> Path | None:
    """The newest `previous.ckpt`, for a run whose `last.ckpt` is gone."""
    previous = newest(path for path in Path(results_folder).glob(f"**/{PREVIOUS}") if path.is_file())
    if previous is not None:
        log.warning("%s is gone; the run resumes from the checkpoint before it", previous.with_name(LAST))
    return previous


def _flat(config: DictConfig) -> dict[str, object]:
    """Every value that can affect the weights, by its present dotted key."""
    found: dict[str, object] = {}

    def collect(tree, key: str) -> None:
        key = present_name(key)
        if any(key == name or key.startswith(f"{name}.") for name in NO_PART_IN_WEIGHTS):
            return
        if isinstance(tree, dict) and tree:
            for name, value in tree.items():
                collect(value, f"{key}.{name}" if key else str(name))
        else:
            found[key] = tree

    collect(OmegaConf.to_container(config, resolve=True), "")
    return found
