"""The LightningDataModule: prepared cases, seeded batches, and a position from which a stopped run goes on."""

import hashlib
import json
import logging
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from common.checked_tensors import open_checked
from common.errors import UserError
from dataset.cases.case import case_key
from dataset.cases.case_dataset import CaseDataset
from dataset.cases.description import completed_rows, mean_lung_box
from dataset.cases.source import Source
from dataset.cases.step_sampler import StepBatchSampler
from dataset.cases.store import prepare_cases, rebuild_case, source_folder, stored
from dataset.imaging.hu_window import Window
from dataset.manifest.splits import patients_digest
from dataset.manifest.table import SPLITS, write_manifest

NAMED = 10  # ids in one warning

log = logging.getLogger(__name__)


class CTDataModule(pl.LightningDataModule):
    """Batches for training, validation and test out of one source.

    A run is one Lightning epoch of `num_batches` batches: use `max_epochs=1`, `use_distributed_sampler=False` and an
    integer `val_check_interval`. After `setup()` the attributes `train`, `val` and `test` hold `CaseDataset`s; they
    may be replaced by a wrapper that takes the same items.

    Args:
        source: `PhantomSource`, `FolderSource` or anything with their methods.
        window: HU window: `ctpa`, `lidc`, `wide` or two numbers.
        batch_size: training samples per batch and process.
        num_batches: length of the whole training run; one pass over the training set by default.
        num_workers: loading processes.
        seed: of the order of samples and of the crops.
        cache_dir: folder for prepared cases.
        prepare_workers: processes that prepare cases; one per core by default.
        crop: voxels `[d, h, w]` of random training crops, or None.
        keep_gb: training cases that are no larger than this in all, times the loading processes, stay in memory.
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
        self.train: CaseDataset | Dataset | None = None
        self.val: CaseDataset | Dataset | None = None
        self.test: CaseDataset | Dataset | None = None
        self.batches_done = 0
        self._protocol: dict | None = None
        self._prepared: tuple[list[Path], pd.DataFrame] | None = None  # by this process: looked at once

    @property
    def manifest_path(self) -> Path:
        """The table that says which case is in which split."""
        return source_folder(self.source, self.cache_dir) / getattr(self.source, "manifest", "manifest.csv")

    def prepare_data(self) -> None:
        """Build what is not cached and write the manifest (one process does this).

        Raises:
            UserError: if something is missing or an input cannot be used.
        """
        missing = self.source.missing()
        if missing:
            raise UserError(f"missing: {'; '.join(missing)}")
        self._prepared = self._prepare()
        write_manifest(self._prepared[1], self.manifest_path)

    def _prepare(self) -> tuple[list[Path], pd.DataFrame]:
        paths = prepare_cases(self.source, self.cache_dir, self.prepare_workers)
        return paths, completed_rows(self.source, paths)

    def setup(self, stage: str | None = None) -> None:
        """Open the three splits. A split without a case is served by its neighbour, and a line says so."""
        self.batches_done = 0  # a checkpoint, loaded after this, sets it
        if self.train is not None:
            return
        paths, rows = self._prepared or self._prepare()
        chosen = {split: np.flatnonzero(rows["split"] == split) for split in SPLITS}
        if not len(chosen["train"]):
            raise UserError(f"{self.source.name}: no case in the split train; its manifest or counts must give one")
        if not len(chosen["val"]):
            log.warning("%s: no case for validation; validation repeats the training cases", self.source.name)
            chosen["val"] = chosen["train"]
        if not len(chosen["test"]):
            log.warning("%s: no case for the test; the test repeats the validation cases", self.source.name)
            chosen["test"] = chosen["val"]
        trained = [paths[i] for i in chosen["train"]]
        self._protocol = self._make_protocol(paths, rows, trained)
        lung_box = self._protocol["lung_box"]
        # volumes that are shown volumes have no pose either, but their size is known
        extent = None if self._protocol.get("input") == "volume" else self._protocol["extent"]
        for split, indices in chosen.items():
            crop = self.crop if split == "train" else None
            xray_options = self.source.xray_options
            files = [paths[i] for i in indices]
            data = (files, rows.iloc[indices], self.window, crop, self.seed, xray_options, lung_box, extent)
            keep = split == "train" and self._fits(files)
            setattr(self, split, CaseDataset(*data, rebuild=partial(rebuild_case, self.source), keep=keep))
        self._warn_of_unlaid()

    def _fits(self, files: list[Path]) -> bool:
        """Whether these cases may stay in memory; each loading process would hold its own."""
        if not self.keep_gb:
            return False
        return sum(file.stat().st_size for file in files) * max(1, self.num_workers) <= self.keep_gb * 2**30

    def _warn_of_unlaid(self) -> None:
        """Names the films without lungs: they stay as they are, beside others that were laid."""
        found = list(dict.fromkeys(name for split in SPLITS for name in getattr(self, split).unlaid()))
        if found:
            shown = ", ".join(found[:NAMED]) + ", …" * (len(found) > NAMED)
            log.warning(
                "%s: align=lungs finds no lungs in the X-rays of %d cases, which stay as they are: %s; look at them",
                self.source.name,
                len(found),
                shown,
            )

    def train_dataloader(self) -> DataLoader:
        """`num_batches` batches in all, of which those that the run has already done are left out."""
        total = self.num_batches or math.ceil(len(self.train) / self.batch_size)
        self._reopen_epoch(total)
        sampler = StepBatchSampler(len(self.train), self.batch_size, total, self.seed, start=self.batches_done)
        return self._loader(self.train, _StepLoader, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        """Validation cases in order, whole, without augmentation."""
        return self._loader(self.val, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader:
        """Test cases in order, whole, without augmentation."""
        return self._loader(self.test, batch_size=self.batch_size)

    def _loader(self, dataset: Dataset, kind: type[DataLoader] = DataLoader, **options) -> DataLoader:
        return kind(
            dataset,
            num_workers=self.num_workers,
            persistent_workers=False,
            pin_memory=torch.cuda.is_available(),
            # Without one, each iterator draws from the global generator and so shifts what the model draws after it.
            generator=torch.Generator().manual_seed(self.seed),
            collate_fn=getattr(dataset, "collate", None),  # of data sets that give whole batches
            **options,
        )

    def state_dict(self) -> dict:
        """`{"batches_done": n}`, for the checkpoint.

        Lightning's own counter is the truth: loading processes have fetched further. `processed`, not `ready`: it
        counts a batch once its optimizer step is done, and it is what Lightning falls back to after an exception.
        """
        trainer = self.trainer
        if trainer is not None and trainer.state.fn == "fit":
            return {"batches_done": int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)}
        return {"batches_done": self.batches_done}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on behind the last batch that was done. Lightning calls this after `setup`, before the loaders."""
        self.batches_done = int(state_dict["batches_done"])

    def _reopen_epoch(self, total: int) -> None:
        """Let a run that had reached its end go on when it has become longer.

        How Lightning 2.6 resumes within an epoch (read in its loops, kept true by the tests):
        - `fit_loop` asks for the loader after it restored its counters, adds the batches done to the fetcher's
          count and compares with `len(loader)`: so the length is that of the whole run, only iteration starts later.
        - A checkpoint of the last batch says `is_last_batch`, and one written at or after the epoch's end says that
          the epoch is processed; either ends the resumed run at once, whatever the new length. Both are taken back
          here, which leaves the counters as a checkpoint in the middle of a longer run would have left them.
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
        """What a result must say about its data; plain JSON.

        `dataset`, `version`, `window` in HU, `volume_size`; of the training cases the median `spacing` and `extent` in
        mm `[D, H, W]` and `lung_box` (`dataset.imaging.lung_box`; None where none was found); `xray_size`,
        `views`, `align`, `film`, `xray_sources` and `split` counts, `patients_sha256` of each split, by which
        the same patients are known without their names, and what the source adds.
        """
        if self._protocol is None:
            raise RuntimeError("protocol() needs setup() first")
        return self._protocol

    def cache_bytes(self) -> int:
        """Size on disk of the prepared cases of all splits, after `setup()`."""
        paths = {path for split in (self.train, self.val, self.test) for path in getattr(split, "paths", ())}
        return sum(path.stat().st_size for path in paths)

    def content_sha256(self) -> str:
        """Hash of what all cases hold and of their splits, after `setup()`: the same data have it on every machine."""
        entries = []
        for split in SPLITS:
            cases = getattr(self, split)
            for path, name in zip(cases.paths, cases.rows["id"], strict=True):
                with open_checked(path) as file:
                    entries.append([split, str(name), sorted(file.checksums().items())])
        return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()

    def _make_protocol(self, paths: list[Path], rows: pd.DataFrame, trained: list[Path]) -> dict:
        # what a model is told of a typical patient is of the training cases alone
        spacing = np.median([stored(path, "spacing").numpy() for path in trained], axis=0)
        size = self.source.describe()["volume_size"]
        counts = rows["split"].value_counts()
        return {
            "version": case_key({"cases": sorted(path.stem for path in paths)}),
            **self.source.describe(),
            "window": [self.window.low, self.window.high],
            "spacing": [round(float(s), 4) for s in spacing],
            "extent": [round(float(n * s), 2) for n, s in zip(size, spacing, strict=True)],
            **self.source.xray_options.describe(),
            "lung_box": mean_lung_box(trained),
            "xray_sources": {str(k): int(v) for k, v in rows["xray_source"].value_counts().items()},
            "split": {split: int(counts.get(split, 0)) for split in SPLITS},
            "patients_sha256": patients_digest(rows),
        }


def prepared_data(source, dataset, **options) -> CTDataModule:
    """The data module of a config's `dataset` node, its cases prepared and its splits there.

    Args:
        source: makes the cases: `dataset.source`, instantiated.
        dataset: node with `window`, `cache_dir` and `prepare_workers`.
        options: further arguments of `CTDataModule`.
    """
    workers = dataset.prepare_workers
    data = CTDataModule(source, dataset.window, cache_dir=dataset.cache_dir, prepare_workers=workers, **options)
    data.prepare_data()
    data.setup()
    return data


class _StepLoader(DataLoader):
    """A loader whose position the data module keeps; having these two methods tells Lightning that it resumes."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Nothing to do: the sampler was built with its start."""
