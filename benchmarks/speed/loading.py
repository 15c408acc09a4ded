"""Rows `loading` and `loading_volumes`: one epoch of training data against MONAI's `CacheDataset`.

Both keep their data in memory. Volumes come from the same case files: MONAI decodes them to windowed float32 before
the first epoch, we keep the file's int16 from the first epoch on; so both are timed from the warm cache to the end of
that epoch. Latents are our files or MONAI's of the same size. Starts are timed after reading the peak memory.
"""

import copy
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.speed.workload import Row, Work
from benchmarks.timing import timed

XRAY = 128
HEADERS_ONLY = (16, 16, 16)  # size of volumes that are not read
ON_CPU = {"accelerator": "cpu", "devices": 1}


def repeated_source(cases: int, volume: tuple[int, int, int]):
    """A source of the project whose cases are identical; loading does not depend on their content."""
    from dataset.sources.phantom import PhantomSource, Population  # here: rows for a GPU do not need the renderer
    from dataset.sources.settings import Geometry, Xrays

    class Repeated(PhantomSource):
        first_case = None

        def build(self, row) -> dict:
            if self.first_case is None:
                self.first_case = super().build(row)
            return self.first_case

    return Repeated(Population(cases, 1, 1), Geometry(volume), Xrays((XRAY, XRAY)), name="repeated")


def data_module(cases: int, volume, batch: int, folder: Path, keep_gb: float = 0.0):
    """The project's data module over repeated cases; built once per folder, then read from the cache."""
    from dataset.datamodule import CTDataModule

    options = {"batch_size": batch, "cache_dir": folder, "prepare_workers": 0, "keep_gb": keep_gb}
    module = CTDataModule(repeated_source(cases, volume), **options)
    module.prepare_data()
    module.setup()
    return module


def make_encoder(setting: dict):
    """Our VQ-GAN with random weights, for the shape and the standardisation of latents."""
    from ddpm.latent import VQGANLatents

    return VQGANLatents(setting["networks"]["vqgan"])


def write_cache(cases: int, setting: dict, encoder, folder: Path) -> None:
    """Writes cases and latents of the row's shape with the project's writers."""
    from ddpm.latent.latent_dataset import latent_file, latent_folder, write_latents

    module = data_module(cases, HEADERS_ONLY, setting["batch"], folder)
    home = latent_folder(Path(module.manifest_path).parent, encoder)
    raw = torch.randn(encoder.latent_shape(tuple(setting["volume"])))
    for split in (module.train, module.val):
        for path in split.paths:
            write_latents(raw, latent_file(home, path, split.window))
    latent_data(cases, setting, encoder, folder)  # stores the statistics of the latents


def latent_data(cases: int, setting: dict, encoder, folder: Path):
    """The data of the second stage at the start of training: latents read, measured and standardised."""
    from train.generator.latent_data import LatentData

    module = data_module(cases, HEADERS_ONLY, setting["batch"], folder)
    return LatentData(module, copy.deepcopy(encoder), ON_CPU)


def _epoch(loader) -> int:
    return sum(1 for _ in loader)


def ours(setting: dict, device: str) -> Work:
    """Cached latents with their X-rays, as in training of the second stage."""
    holder, encoder, cases = tempfile.TemporaryDirectory(), make_encoder(setting), setting["start_cases"]
    folder = Path(holder.name)
    write_cache(setting["cases"], setting, encoder, folder)
    module = latent_data(setting["cases"], setting, encoder, folder)

    def finish() -> dict:
        more = cases, setting, encoder, folder / "start"
        write_cache(*more)
        return {"latents_in_memory_s": timed(lambda: latent_data(*more))[0], "start_cases": cases}

    def step() -> int:
        return _epoch(module.train_dataloader())

    return Work(step, {"batches_an_epoch": step()}, finish, keeps=holder)


def ours_volumes(setting: dict, device: str) -> Work:
    """Whole cases, as in training of the first stage; in memory after the first epoch, encoded as on disk."""
    holder, cases = tempfile.TemporaryDirectory(), setting["start_cases"]
    folder = Path(holder.name)
    arguments = setting["cases"], setting["volume"], setting["batch"], folder
    data_module(*arguments)  # fills the cache
    start = time.perf_counter()
    module = data_module(*arguments, keep_gb=4.0)
    facts = {"batches_an_epoch": _epoch(module.train_dataloader())}
    facts["first_epoch_ends_s"] = time.perf_counter() - start

    def finish() -> dict:
        more = cases, HEADERS_ONLY, setting["batch"], folder / "start"
        data_module(*more)
        return {"headers_read_s": timed(lambda: data_module(*more))[0], "headers_cases": cases}

    return Work(lambda: _epoch(module.train_dataloader()), facts, finish, keeps=holder)


def _cached(files: list[Path], load):
    """MONAI's data set, all files loaded."""
    from monai.data import CacheDataset
    from monai.transforms import Compose, Transform

    class Load(Transform):
        def __call__(self, file: Path) -> dict:
            # entries of our items that are no tensors, so that both collate the same keys
            return {**load(file), "label": 0, "id": file.stem, "index": 0, "step": 0}

    return CacheDataset(files, Compose([Load()]), progress=False)


def _loader(files: list[Path], load, batch: int):
    from monai.data import DataLoader

    return DataLoader(_cached(files, load), batch_size=batch, shuffle=True, num_workers=0)


def monai(setting: dict, device: str) -> Work:
    """Latents, standardised before writing, and X-rays in MONAI's cache."""
    from safetensors.torch import load_file, save_file

    holder, cases = tempfile.TemporaryDirectory(), setting["start_cases"]
    shape = make_encoder(setting).latent_shape(tuple(setting["volume"]))

    def write(count: int, name: str) -> list[Path]:
        folder = Path(holder.name) / name
        folder.mkdir()
        files = [folder / f"{i}.safetensors" for i in range(count)]
        for file in files:
            extra = {"xray": torch.rand(1, 1, XRAY, XRAY), "pose": torch.zeros(1, 9), "spacing": torch.full((3,), 4.0)}
            save_file({"latent": torch.randn(shape), **extra}, file)
        return files

    loader = _loader(write(setting["cases"], "epoch"), load_file, setting["batch"])

    def finish() -> dict:
        more = write(cases, "start")
        return {"latents_in_memory_s": timed(lambda: _cached(more, load_file))[0], "start_cases": cases}

    return Work(lambda: _epoch(loader), {"batches_an_epoch": _epoch(loader)}, finish, keeps=holder)


def monai_volumes(setting: dict, device: str) -> Work:
    """Our case files, decoded and windowed once, then in MONAI's cache."""
    from safetensors.torch import load_file

    holder = tempfile.TemporaryDirectory()
    module = data_module(setting["cases"], setting["volume"], setting["batch"], Path(holder.name))

    def load(file: Path) -> dict:
        case = load_file(file)
        item = {"ct": module.window.normalise(case["ct"].float())[None], "xray": case["xray"].float()[:, None]}
        return {**item, "pose": case["pose"], "spacing": case["spacing"]}

    start = time.perf_counter()
    loader = _loader(list(module.train.paths), load, setting["batch"])
    facts = {"batches_an_epoch": _epoch(loader)}
    facts["first_epoch_ends_s"] = time.perf_counter() - start
    return Work(lambda: _epoch(loader), facts, keeps=holder)


ROWS = [
    Row(
        "loading",
        "one epoch of cached latents with X-rays",
        {"ours": ours, "MONAI CacheDataset": monai},
        sizes=("cpu",),
    ),
    Row(
        "loading_volumes",
        "one epoch of volumes with X-rays",
        {"ours": ours_volumes, "MONAI CacheDataset": monai_volumes},
        sizes=("cpu",),
    ),
]
