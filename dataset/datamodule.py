"""The LightningDataModule: prepared cases, seeded batches, and a position from which a run resumes."""

import hashlib
import json
import logging
import math
from copy import copy
from functools import partial
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from common.checked_tensors import open_checked
from common.errors import UserError
from dataset.cases.case_dataset import CaseDataset
from dataset.cases.description import completed_rows, data_protocol
from dataset.cases.source import Source
from dataset.cases.step_sampler import StepBatchSampler
from dataset.cases.store import prepare_cases, rebuild_case, source_folder, writes_cache
from dataset.imaging.hu_window import Window
from dataset.manifest.table import SPLITS, write_manifest

SHOWN_IDS = 10  # ids in one warning

log = logging.getLogger(__name__)


class CTDataModule(pl.LightningDataModule):
    """Batches for training, validation and test from one source.

    A run is one Lightning epoch of `num_batches` batches: use `max_epochs=1`, `use_distributed_sampler=False` and an
    integer `val_check_interval`. After `setup()` the attributes `train`, `val` and `test` are `CaseDataset`s, or
    wrappers that take the same keys.

    Args:
        window: HU window: `ctpa`, `lidc`, `wide` or two numbers.
        batch_size: training samples per batch and process.
        num_batches: length of the whole training run; by default one pass over the training set.
        seed: of the order of samples, crops and augmentation.
        prepare_workers: processes that prepare cases; by default one per core.
        crop: voxels `[d, h, w]` of random training crops, or None.
        keep_gb: training cases stay in memory if their size times the loading processes is at most this.
    """

    def __init__(
        self,
        source: Source,
        window="wide",
        batch_size: int = 1,
        num_batches: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str | Path = "outputs/cache",
        prepare_workers: int | None = None,
        crop=None,
        keep_gb: float = 0.0,
    ):
        super().__init__()
        self.source, self.window = source, Window.parse(window)
        self.batch_size, self.num_batches, self.num_workers = int(batch_size), num_batches, int(num_workers)
        self.seed, self.cache_dir, self.prepare_workers = int(seed), Path(cache_dir), prepare_workers
        self.crop = None if crop is None else tuple(int(n) for n in crop)
        self.keep_gb = float(keep_gb)
        self.train = self.val = self.test = None
        self.batches_done = 0
        self._protocol: dict | None = None
        self._prepared: tuple[list[Path], pd.DataFrame] | None = None

    @property
    def manifest_path(self) -> Path:
        """The manifest with the split of every case."""
        return source_folder(self.source, self.cache_dir) / getattr(self.source, "manifest", "manifest.csv")

    def prepare_data(self) -> None:
        """Builds missing cases and writes the manifest; UserError for a missing or unusable input."""
        if missing := self.source.missing():
            raise UserError(f"missing: {'; '.join(missing)}")
        self._prepared = self._prepare()
        with writes_cache(self.cache_dir):
            write_manifest(self._prepared[1], self.manifest_path)

    def _prepare(self) -> tuple[list[Path], pd.DataFrame]:
        paths = prepare_cases(self.source, self.cache_dir, self.prepare_workers)
        return paths, completed_rows(self.source, paths)

    def setup(self, stage: str | None = None) -> None:
        """Opens the three splits; an empty one repeats the cases of another, with a warning."""
        self.batches_done = 0  # Lightning loads a checkpoint later
        if self.train is not None:
            return
        paths, rows = self._prepared or self._prepare()
        chosen = {split: [i for i, name in enumerate(rows["split"]) if name == split] for split in SPLITS}
        if not chosen["train"]:
            raise UserError(f"{self.source.name}: no case for training; its manifest or counts must name one")
        for split, name, other in (("val", "validation", "train"), ("test", "test", "val")):
            if not chosen[split]:
                log.warning("%s: no %s case; %s repeats the %s cases", self.source.name, name, name, other)
                chosen[split] = [
                    i for i in chosen[other] if not rows["parents"].iloc[i]
                ]  # morphs repeat their parents
        self._protocol = data_protocol(self.source, self.window, paths, rows)
        # input volumes have a size though they have no pose
        extent = None if self._protocol.get("input") == "volume" else self._protocol["extent"]
        size = sum(paths[i].stat().st_size for i in chosen["train"]) * max(1, self.num_workers)  # a copy per process
        for split, indices in chosen.items():
            own = {"crop": self.crop, "keep": size <= self.keep_gb * 2**30} if split == "train" else {}
            data = CaseDataset(
                [paths[i] for i in indices],
                rows.iloc[indices],
                self.window,
                seed=self.seed,
                xray_options=self.source.xray_options,
                lung_box=self._protocol["lung_box"],
                extent=extent,
                rebuild=partial(rebuild_case, self.source),
                **own,
            )
            setattr(self, split, data)
        if found := list(dict.fromkeys(name for split in SPLITS for name in getattr(self, split).unaligned())):
            shown = ", ".join(found[:SHOWN_IDS]) + ", …" * (len(found) > SHOWN_IDS)
            message = "%s: align=lungs finds no lungs in the X-rays of %d cases, which stay unaligned: %s; check them"
            log.warning(message, self.source.name, len(found), shown)

    def train_dataloader(self) -> DataLoader:
        """Batches of the whole run, without those that a resumed run has already done."""
        total = self.num_batches or math.ceil(len(self.train) / self.batch_size)
        self._reopen_epoch(total)
        sampler = StepBatchSampler(len(self.train), self.batch_size, total, self.seed, start=self.batches_done)
        return self._loader(self.train, _StepLoader, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        """Validation cases in order, whole, without augmentation; one at a time if training cases are crops."""
        return self._loader(self.val, batch_size=1 if self.crop is not None else self.batch_size)

    def _loader(self, dataset: Dataset, kind: type[DataLoader] = DataLoader, **options) -> DataLoader:
        return kind(
            dataset,
            num_workers=self.num_workers,
            persistent_workers=False,
            pin_memory=torch.cuda.is_available(),
            # Without it, each iterator draws from the global generator and changes what the model draws later.
            generator=torch.Generator().manual_seed(self.seed),
            collate_fn=getattr(dataset, "collate", None),
            **options,
        )

    def state_dict(self) -> dict:
        """`{"batches_done": n}`, for the checkpoint; loading processes are ahead of Lightning's counter.

        `processed` counts a batch after its optimizer step, and Lightning uses it after an exception.
        """
        if self.trainer is not None and self.trainer.state.fn == "fit":
            return {"batches_done": int(self.trainer.fit_loop.epoch_loop.batch_progress.current.processed)}
        return {"batches_done": self.batches_done}

    def load_state_dict(self, state_dict: dict) -> None:
        """Continues after the last finished batch. Lightning calls this after `setup`, before the loaders."""
        self.batches_done = int(state_dict["batches_done"])

    def _reopen_epoch(self, total: int) -> None:
        """Resets the end-of-epoch state of a finished run that continues with more batches.

        Lightning 2.6 adds the batches done to the fetcher's count and compares with `len(loader)`, so the length is
        that of the whole run and only iteration starts later. A checkpoint of the last batch sets `is_last_batch`, one
        at or after the end of the epoch marks the epoch as processed; either ends the resumed run at once.
        """
        if self.trainer is None or not 0 < self.batches_done < total:
            return
        fit_loop = self.trainer.fit_loop
        fit_loop.epoch_loop.batch_progress.is_last_batch = False
        if fit_loop.epoch_progress.current.processed:
            for counter in (fit_loop.epoch_progress.total, fit_loop.epoch_progress.current):
                counter.processed -= 1
                counter.completed = counter.processed
            fit_loop.restarting = True

    def protocol(self) -> dict:
        """Description of the data (`dataset.cases.description.data_protocol`), after `setup()`."""
        return self._protocol

    def cache_bytes(self) -> int:
        """Size on disk of the prepared cases of all splits, after `setup()`."""
        paths = {path for split in (self.train, self.val, self.test) for path in getattr(split, "paths", ())}
        return sum(path.stat().st_size for path in paths)

    def content_sha256(self) -> str:
        """Hash of all cases and their splits, after `setup()`, independent of the machine."""
        entries = []
        for split in SPLITS:
            cases = getattr(self, split)
            for path, name in zip(cases.paths, cases.rows["id"], strict=True):
                with open_checked(path) as file:
                    entries.append([split, str(name), sorted(file.checksums().items())])
        return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()


def prepared_data(source, dataset, **options) -> CTDataModule:
    """The data module of the node `dataset` of a config and its instantiated `source`, with open splits."""
    workers = dataset.prepare_workers
    data = CTDataModule(source, dataset.window, cache_dir=dataset.cache_dir, prepare_workers=workers, **options)
    data.prepare_data()
    data.setup()
    return data


def split_cases(source, dataset, split: str, trained: dict) -> tuple[CaseDataset, dict]:
    """The cases of one split, the only ones that are prepared, and a protocol of them.

    Extent, lung box and spacing, which are medians of the training cases, are those of the protocol `trained` of a
    checkpoint. UserError for a split without a case of its own, and as `CTDataModule`.
    """
    if missing := source.missing():
        raise UserError(f"missing: {'; '.join(missing)}")
    chosen = copy(source)
    chosen.rows = source.rows[source.rows["split"] == split].reset_index(drop=True)
    if chosen.rows.empty:
        raise UserError(f"split={split}: the data set has no {split} case of its own; give another split")
    paths = prepare_cases(chosen, dataset.cache_dir, dataset.prepare_workers)
    window, rows = Window.parse(dataset.window), completed_rows(chosen, paths)
    same = {key: trained.get(key) for key in ("extent", "lung_box", "spacing")}
    protocol = {**source.describe(), "window": [window.low, window.high], **source.xray_options.describe(), **same}
    extent = None if protocol.get("input") == "volume" else same["extent"]
    options = {"xray_options": source.xray_options, "lung_box": same["lung_box"], "extent": extent}
    return CaseDataset(paths, rows, window, rebuild=partial(rebuild_case, source), **options), protocol


class _StepLoader(DataLoader):
    """A loader whose position the data module stores; these two methods tell Lightning that it can resume."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Does nothing: the sampler has its start."""
