"""Generated volumes as cases, cached; each from a generator that was not trained on its patient."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import Dataset

from common.checked_tensors import save_tensors
from common.errors import UserError
from common.files import atomic_path, sha256
from dataset.cases.case import case_key
from dataset.cases.case_dataset import CaseDataset
from dataset.cases.store import source_folder, stored
from dataset.datamodule import CTDataModule
from dataset.imaging.hu_window import Window
from dataset.manifest.table import SPLITS
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.read import read
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.open_pipeline import set_sampler
from evaluation.generation.sample import Sampling, sample_volumes
from evaluation.protocol.comparability import estimator
from evaluation.protocol.data_checks import check_protocol
from evaluation.protocol.leakage import assign_generators, training_splits_of_file

TOGETHER = 64  # X-rays held in memory at once


class GeneratedCases(Dataset):
    """The items of a `CaseDataset` with the volumes of `files` in place of the true ones: `ct` int16 (D, H, W) HU."""

    def __init__(self, cases: CaseDataset, files: list[Path]):
        self.cases, self.files, self.rows = cases, list(files), cases.rows
        self.window: Window = cases.window

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int | tuple[int, int]) -> dict:
        index, step = item if isinstance(item, tuple) else (item, -1)
        ct = self.window.normalise(stored(self.files[index], "ct"))[None]
        return {"ct": ct, **self.cases.condition(index, step), "index": int(index), "step": int(step)}


@dataclass
class Generators:
    """Checkpoints that generate the volumes, and their settings; UserError without a checkpoint or a sample.

    Args:
        paths: checkpoints: one that is foreign to the data, or one for each fold.
        sampler: scheduler, steps and their options.
        samples: behind each volume, which is their mean.
        origin: checkpoint that all of them were fine-tuned from, if any.
    """

    paths: list[Path]
    sampler: dict
    samples: int = 1
    seed: int = 0
    batch_size: int = 4
    device: str = "cpu"
    origin: str | None = None
    hashes: dict[Path, str] = field(init=False)

    def __post_init__(self):
        if not self.paths:
            raise UserError("generators: none given; train them with python train/train_ddpm.py, one a dataset.fold")
        if self.samples < 1:
            raise UserError(f"generators: samples={self.samples}; give at least 1")
        self.hashes = {path: sha256(path) for path in self.paths}

    def describe(self) -> dict:
        """Plain JSON: files by name and hash, sampler, samples, estimator and seed."""
        files = sorted(({"file": p.name, "sha256": h} for p, h in self.hashes.items()), key=lambda f: f["sha256"])
        settings = {"sampler": self.sampler, "samples": self.samples, "seed": self.seed}
        return {"checkpoints": files, "estimator": estimator(self.samples), **settings}

    def make(self, data: CTDataModule, splits: tuple[str, ...] = SPLITS) -> dict[str, GeneratedCases]:
        """Generated cases of these splits of `data`, after its `setup()`; cached volumes are not generated again.

        Raises UserError for a patient whom every generator has seen, and for a generator of another window or size.
        """
        present, rows = data.protocol(), all_rows(data)
        generators = [_Generator(path, self.device) for path in self.paths]
        for generator in generators:
            check_protocol(present, generator.protocol)
            for key in ("xray_size", "views"):
                if present.get(key) != generator.protocol.get(key):
                    raise UserError(
                        f"{generator.path}: trained with dataset.{key}={generator.protocol.get(key)}, the data have "
                        f"{present.get(key)}; give the same, so that all models see one resolution"
                    )
        asked = rows["split"].isin(splits).to_numpy()
        parts = {str(path): training_splits_of_file(rows, path, present, self.origin)[asked] for path in self.paths}
        chosen = assign_generators(parts, rows[asked].reset_index(drop=True))
        owners = dict(zip(rows.loc[asked, "id"], chosen, strict=True))
        made = {}
        for split in splits:
            cases = getattr(data, split)
            names = zip(cases.rows["id"], cases.paths, strict=True)
            made[split] = GeneratedCases(cases, [self._file(data, Path(owners[name]), path) for name, path in names])
        for generator in generators:
            for found in made.values():
                mine = [str(generator.path) == owners[name] for name in found.rows["id"]]
                todo = [i for i, own in enumerate(mine) if own and not found.files[i].is_file()]
                for start in range(0, len(todo), TOGETHER):
                    self._generate(generator, found, todo[start : start + TOGETHER])
        return made

    def _file(self, data: CTDataModule, owner: Path, case: Path) -> Path:
        settings = {"checkpoint": self.hashes[owner], "sampler": self.sampler, "samples": self.samples}
        folder = f"generated-{case_key({**settings, 'noise': self.seed})}"
        return source_folder(data.source, data.cache_dir) / folder / case.name

    def _generate(self, generator: "_Generator", found: GeneratedCases, places: list[int]) -> None:
        pipeline, cases = generator.pipeline, found.cases
        set_sampler(pipeline, self.sampler)
        # X-rays are aligned to the generator's lung box, without augmentation
        of_volumes = generator.protocol.get("input") == "volume"
        extent = None if of_volumes else generator.protocol.get("extent")
        shown = CaseDataset(
            cases.paths,
            cases.rows,
            cases.window,
            None,
            0,
            cases.xray_options,
            generator.protocol.get("lung_box"),
            extent,
        )
        items = [shown.condition(i) for i in places]
        inputs, ids = ModelInputs.of_cases(items, pipeline), [item["id"] for item in items]
        sampling = Sampling(self.samples, self.seed, self.batch_size)
        for part, volumes in sample_volumes(pipeline, inputs, ids, sampling):
            for i, samples in zip(part, volumes, strict=True):
                file = found.files[places[i]]
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(file) as temporary:
                    save_tensors({"ct": samples.mean(dim=0).round().to(torch.int16).contiguous()}, temporary)


class _Generator:
    """A checkpoint; its protocol is read at once, its networks only if volumes have to be generated."""

    def __init__(self, path: Path, device: str):
        self.path, self.device = path, device
        self.protocol: dict = read(path).protocol

    @cached_property
    def pipeline(self):
        return load_pipeline(self.path, device=self.device)


def find_generators(given: str | list[str] | None) -> list[Path]:
    """Checkpoints from a config value: a file, a folder (the newest of each fold under it), or a list of these.

    Raises UserError for a path that does not exist and a folder without a generator.
    """
    found = []
    for value in [given] if isinstance(given, str) else list(given or []):
        path, newest = Path(value), {}
        if path.is_file():
            found.append(path)
            continue
        for file in sorted(path.glob("**/last.ckpt"), key=lambda f: f.stat().st_mtime_ns):
            checkpoint = read(file)
            if checkpoint.stage == "ddpm":
                newest[checkpoint.protocol.get("fold")] = file
        if not newest:
            raise UserError(f"generators: {value}: no such file, and no last.ckpt of a generator under it")
        found += newest.values()
    return found


def all_rows(data: CTDataModule) -> pd.DataFrame:
    """The manifest of all three splits, labels completed."""
    return pd.concat([getattr(data, split).rows for split in SPLITS], ignore_index=True)
