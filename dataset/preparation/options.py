"""The settings of `config/prepare.yaml` put together: what to read, how to make cases, what to keep."""

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
from dataset.preparation.case_writer import Settings
from dataset.preparation.crop_box import KINDS, make_segmenter
from dataset.preparation.plan import find_all, make_plan
from dataset.preparation.runner import Outcome, open_folders, prepare, processes, quiet
from dataset.preparation.series_ranking import pick_rules
from dataset.preparation.user_tables import read_wishes


def prepare_set(cfg: DictConfig) -> tuple[Outcome, Path]:
    """Prepares a training set; returns what became of the cases and the manifest.

    Raises:
        UserError: for settings or a source that cannot be used, and where no case could be made.
    """
    if missing := [f"{key}=<folder>" for key in ("source", "output") if not cfg[key]]:
        raise UserError(f"missing: {' and '.join(missing)}; --help lists every option")
    if cfg.voi not in KINDS:
        raise UserError(f"voi={cfg.voi}: choose {', '.join(KINDS)}")
    quiet()
    plain = OmegaConf.to_container(cfg, resolve=True)
    with user_errors():
        rules = pick_rules(plain["rules"], instantiate(cfg.criteria, _convert_="all"))
    make_segmenter(cfg.segmenter, cfg.lungmask_weights)  # refused now rather than in every process
    margin = number("margin", cfg.margin)
    least = number("min_lung_ml", cfg.min_lung_ml)
    vessels = None if cfg.min_vessel_hu is None else number("min_vessel_hu", cfg.min_vessel_hu, lowest=-math.inf)
    max_hours = None if cfg.max_hours is None else number("max_hours", cfg.max_hours)
    workers = None if cfg.workers is None else number("workers", cfg.workers, kind=int)
    spacing = None if cfg.spacing is None else positive("spacing", cfg.spacing, 3, float)
    size = None if cfg.volume_size is None else positive("volume_size", cfg.volume_size, 3)
    output, pseudonyms = open_folders(cfg.source, cfg.output, cfg.linkage)
    settings = Settings(
        output,
        spacing=spacing,
        volume_size=size,
        voi=cfg.voi,
        margin=margin,
        min_lung_ml=least,
        min_vessel_hu=vessels,
        segmenter=cfg.segmenter,
        lungmask_weights=cfg.lungmask_weights,
        unpaired=cfg.unpaired,
        trim_border=cfg.trim_border,
        mask_text=cfg.mask_text,
    )
    with _writing(output), processes(workers) as pool:
        series, radiographs = find_all(cfg.source, [pseudonyms.folder], pool, cfg.follow_links)
        wishes = read_wishes(plain, series, radiographs, pseudonyms.folder)
        plan = make_plan(series, radiographs, pseudonyms, rules, max_hours=max_hours, unpaired=cfg.unpaired, **wishes)
        outcome = prepare(plan, settings, pseudonyms, pool, keep_age=cfg.keep_age, keep_sex=cfg.keep_sex)
    return outcome, output / "manifest.csv"


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise UserError(
            f"output={output}: cannot be written ({error.strerror}); free space or choose another; the same command "
            "goes on, finished cases are kept"
        ) from error
    finally:
        release(output)


def number(key: str, value, lowest: float = 0.0, kind: type = float) -> float | int:
    """A number out of a config value, at least `lowest`.

    Raises:
        UserError: naming the key, for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not math.isfinite(value) or value < lowest:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{key}={value}: give {what}{f' of {lowest:g} or more' if math.isfinite(lowest) else ''}")
    return kind(value)
