"""The training cases of a distillation, and the patients that its student has seen."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from dataset.cases.case_dataset import CaseDataset
from dataset.datamodule import split_cases
from ddpm.pipeline import XrayToCTPipeline
from evaluation.protocol.checkpoint_data import given_keys, take_data_of_checkpoint
from evaluation.protocol.data_checks import check_protocol
from evaluation.protocol.leakage import check_starting_models


def training_cases(cfg: DictConfig, teacher: XrayToCTPipeline, checkpoint: Path) -> tuple[CaseDataset, dict]:
    """The training cases of `cfg.dataset`, and the entries of the student's protocol about patients.

    Data and augmentation are those of the teacher's training where the command line does not choose. The student has
    seen the patients of its teacher and those of these cases. Raises UserError as `take_data_of_checkpoint`, for data
    of another window or size, and for a teacher that has trained on the test patients of these data.
    """
    trained = teacher.protocol
    take_data_of_checkpoint(cfg, "distill", trained, checkpoint)
    if not {"experiment", "dataset.film_augment"} & given_keys() and "film_augment" in cfg.dataset:
        cfg.dataset.film_augment = trained.get("film") is not None
    source = instantiate(cfg.dataset.source)
    cases, protocol = split_cases(source, cfg.dataset, "train", trained)
    check_protocol(protocol, trained)
    splits = {split: int((source.rows["split"] == split).sum()) for split in ("train", "val", "test")}
    present = protocol | {"split": splits}
    seen = check_starting_models(source.rows, {f"checkpoint={checkpoint}": trained}, present, cfg.allow_seen_patients)
    entries = {"seen": seen}
    if set(seen["train"]) - set(trained.get("seen", {}).get("train", [])):
        entries["patients_sha256"] = None  # its splits are no longer those of the teacher alone
    return cases, entries
