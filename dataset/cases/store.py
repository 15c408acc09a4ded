"""Prepares the cases of a source and caches them, one safetensors file each."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.checked_tensors import DamagedFile, open_checked, save_checked
from common.environment import free_memory
from common.errors import UserError, worker_killed
from common.files import remove_stale
from dataset.cases.case import LARGE, NEEDED, Case, case_key
from dataset.cases.source import Source

log = logging.getLogger(__name__)

BYTES_PER_PROCESS = 2 * 2**30  # libraries, and a scan of 512 x 512 x 400 voxels while it is resampled


def source_folder(source: Source, cache_dir: str | Path) -> Path:
    """`<cache_dir>/<name>-<hash>`, the folder with the manifest and the cases of one population or folder."""
    return Path(cache_dir) / f"{source.name}-{case_key(source.home())}"


def prepare_cases(source: Source, cache_dir: str | Path, workers: int | None = None) -> list[Path]:
    """The case files in the order of `source.rows`, after missing and damaged ones are built (`in_processes`).

    The name of a file contains the key of its case, so a changed volume or setting has another file. UserError for the
    first unusable input, or a cache folder that cannot be written.
    """
    folder = source_folder(source, cache_dir) / "cases"
    records = source.rows.to_dict("records")
    paths = [folder / f"{row['id']}-{source.key(row)}.safetensors" for row in records]
    todo = [(row, path) for row, path in zip(records, paths, strict=True) if not _is_whole(path)]
    if not todo:
        return paths
    with writes_cache(cache_dir):
        folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    if hasattr(source, "prepare"):
        source.prepare(workers)
    for error in in_processes(_Builder(source, todo), workers, f"Preparing {source.name} cases"):
        if error:
            raise UserError(error)
    return paths


@contextmanager
def writes_cache(cache_dir: str | Path) -> Iterator[None]:
    """Turns the OSError of a full or read-only disk into a UserError that names the option."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"dataset.cache_dir={cache_dir}: cannot be written ({error}); free space or choose another"
        ) from error


def in_processes(jobs: Dataset, workers: int | None, title: str) -> Iterator:
    """The items of `jobs` in order, with a progress bar, made in `workers` processes.

    0 makes them in this process, None uses one process per core as far as the memory allows. UserError if a process
    was killed.
    """
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(1, min(cores, free_memory() // BYTES_PER_PROCESS))
    workers = min(workers, len(jobs) // 2)
    # a DataLoader as process pool limits each worker to one thread
    loader = DataLoader(jobs, batch_size=None, num_workers=workers, generator=torch.Generator().manual_seed(0))
    try:
        yield from track(loader, title, total=len(jobs))
    except Exception as error:
        killed = worker_killed(error) if workers else None
        if killed is None:
            raise
        reason = next(iter(str(killed).splitlines()), type(killed).__name__)
        raise UserError(
            f"a process that prepared cases was killed ({reason}), most likely for lack of "
            f"memory: set dataset.prepare_workers below {workers}; the same command goes on, finished cases are kept"
        ) from error


class _Builder(Dataset):
    """Builds and writes case `i`; the item is "" or an error message for the user."""

    def __init__(self, source: Source, todo: list[tuple[dict, Path]]):
        self.source, self.todo = source, todo

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, index: int) -> str:
        row, path = self.todo[index]
        try:
            save_checked(self.source.build(row), path)
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"{path}: cannot be written ({error}); free space or set dataset.cache_dir to another folder"
        return ""


def rebuild_case(source: Source, row: dict, path: Path) -> None:
    """Builds a damaged or missing case again; UserError if its input has changed or is unusable."""
    if not path.stem.endswith(source.key(row)):
        raise UserError(f"{path}: damaged, and its input has changed since; start again with model.resume=auto")
    if problem := _Builder(source, [(row, path)])[0]:
        raise UserError(problem)


def _is_whole(path: Path) -> bool:
    """Whether a case is complete: file length and small tensors. A later read checks volume and X-rays."""
    if not path.is_file():
        return False
    try:
        with open_checked(path) as file:
            small = [name for name in file.keys() if name not in LARGE]  # noqa: SIM118 (not a dict)
            values = {name: file.get_tensor(name) for name in small}
            return {*values, *LARGE & set(file.keys())} >= NEEDED
    except DamagedFile as error:
        log.warning("%s; building it again", str(error).partition(";")[0])
        return False


def stored(path: str | Path, name: str) -> Tensor | None:
    """One tensor of a case, read alone; None if the case has none of that name."""
    with open_checked(path) as file:
        return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 (not a dict)


def read_case(path: str | Path) -> Case:
    """The whole case; UserError if the file is missing or damaged."""
    with open_checked(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
