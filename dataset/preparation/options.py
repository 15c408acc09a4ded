"""The preparation as `config/prepare.yaml` describes it: checked options, then plan, cases and manifest."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError, user_errors
from common.files import DISK_ERRORS
from common.folder_lock import release
from dataset.cases.source import positive
from dataset.preparation.case_writer import CropSettings, Settings
from dataset.preparation.crop_box import KINDS, make_segmenter
from dataset.preparation.plan import find_all, make_plan
from dataset.preparation.runner import Outcome, open_folders, prepare, processes, silence_readers
from dataset.preparation.series_ranking import pick_rules
from dataset.preparation.user_tables import read_user_tables


def prepare_set(cfg: DictConfig) -> tuple[Outcome, Path]:
    """Prepare a training set; returns the outcome of every case and the path of the manifest.

    Raises:
        UserError: for options or a source that cannot be used, and where no case could be made.
    """
    if missing := [f"{key}=<folder>" for key in ("source", "output") if not cfg[key]]:
        raise UserError(f"missing: {' and '.join(missing)}; --help lists every option")
    silence_readers()
    plain = OmegaConf.to_container(cfg, resolve=True)
    with user_errors():
        rules = pick_rules(plain["rules"], instantiate(cfg.criteria, _convert_="all"))
    max_hours, workers = _number(cfg, "max_hours", optional=True), _number(cfg, "workers", kind=int, optional=True)
    settings = _settings(cfg)
    output, pseudonyms = open_folders(cfg.source, cfg.output, cfg.linkage)
    with _written(output), processes(workers) as pool:
        series, radiographs = find_all(cfg.source, [pseudonyms.folder], pool, cfg.follow_links)
        tables = read_user_tables(plain, series, radiographs, pseudonyms.folder)
        plan = make_plan(series, radiographs, pseudonyms, rules, tables, max_hours, cfg.unpaired)
        outcome = prepare(plan, settings, pseudonyms, pool, cfg.keep_age, cfg.keep_sex)
    return outcome, output / "manifest.csv"


def _settings(cfg: DictConfig) -> Settings:
    if cfg.crop_box not in KINDS:
        raise UserError(f"crop_box={cfg.crop_box}: choose {', '.join(KINDS)}")
    make_segmenter(cfg.segmenter, cfg.lungmask_weights)  # fails here rather than in every process
    margin, min_lung_ml = _number(cfg, "margin"), _number(cfg, "min_lung_ml")
    return Settings(
        Path(cfg.output).expanduser(),
        CropSettings(cfg.crop_box, margin, min_lung_ml, cfg.segmenter, cfg.lungmask_weights, cfg.remove_table),
        spacing=None if cfg.spacing is None else positive("spacing", cfg.spacing, 3, float),
        volume_size=None if cfg.volume_size is None else positive("volume_size", cfg.volume_size, 3),
        min_vessel_hu=_number(cfg, "min_vessel_hu", lowest=-math.inf, optional=True),
        unpaired=cfg.unpaired,
        trim_border=cfg.trim_border,
        mask_text=cfg.mask_text,
    )


@contextlib.contextmanager
def _written(output: Path) -> Iterator[None]:
    """Turn a full disk into an error that names the option, and release the lock on the output folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise UserError(
            f"output={output}: cannot be written ({error.strerror}); free space or choose another; the same command "
            "continues, finished cases are kept"
        ) from error
    finally:
        release(output)


def _number(cfg: DictConfig, key: str, kind: type = float, lowest: float = 0.0, optional: bool = False):
    """The number of a key, at least `lowest`, or None where it is optional. Raises UserError for anything else."""
    value = cfg[key]
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not math.isfinite(value) or value < lowest:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{key}={value}: give {what}{f' of {lowest:g} or more' if math.isfinite(lowest) else ''}")
    return kind(value)
