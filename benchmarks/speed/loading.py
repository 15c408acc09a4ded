"""Rows `loading` and `loading_volumes`: one epoch of what training reads, against MONAI's `CacheDataset`.

Both sides read the same files and hold what they read in memory: MONAI as windowed float32 from the start, we from the
first epoch on as the int16 of the file. The start from a warm cache is timed once beside the epochs.
"""

import tempfile
import time
from pathlib import Path

import torch

from benchmarks.speed.work import Row, Work

LATENT_CHANNELS, DOWNSAMPLE, XRAY = 8, 4, 128
START_VOLUME = (16, 16, 16)  # starting reads headers, not volumes


def repeated_source(cases: int, volume: tuple[int, int, int]):
    """A source of the project whose cases are all alike: loading does not look at what it loads."""
    from dataset.phantoms_source import PhantomSource  # here: the rows of a GPU do without its renderer

    class Repeated(PhantomSource):
        first_case = None

        def build(self, row) -> dict:
            if self.first_case is None:
                self.first_case = super().build(row)
            return self.first_case

    return Repeated(train=cases, val=1, test=1, volume_size=volume, xray_size=(XRAY, XRAY), name="repeated")


def data_module(cases: int, volume, batch: int, folder: Path, keep_gb: float = 0.0):
    """The project's own data module over repeated cases; built once a folder, read from the cache afterwards."""
    from dataset.datamodule import CTDataModule

    options = {"batch_size": batch, "cache_dir": folder, "prepare_workers": 0, "keep_gb": keep_gb}
    module = CTDataModule(repeated_source(cases, volume), **options)
    module.prepare_data()
    module.setup()
    return module


def _latent_shape(setting: dict) -> tuple[int, ...]:
    return LATENT_CHANNELS, *(side // DOWNSAMPLE for side in setting["volume"])


def _epoch(module) -> int:
    return sum(1 for _ in module.train_dataloader())


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _facts(setting: dict, start: float, batches: int) -> dict:
    return {"start_s": start, "start_cases": setting["start_cases"], "batches_an_epoch": batches}


def _our_start(setting: dict, folder: Path) -> float:
    arguments = setting["start_cases"], START_VOLUME, setting["batch"], folder / "start"
    data_module(*arguments)  # fills the cache
    return _seconds(lambda: data_module(*arguments))


def ours(setting: dict, device: str) -> Work:
    """Cached latents with their X-rays, as the second stage trains on them."""
    from ddpm.latent.cache import LatentDataset

    holder = tempfile.TemporaryDirectory()
    folder = Path(holder.name)
    module = data_module(setting["cases"], setting["volume"], setting["batch"], folder)
    module.train = LatentDataset(module.train, torch.randn(setting["cases"], *_latent_shape(setting)))
    facts = _facts(setting, _our_start(setting, folder), _epoch(module))
    return _keeping(holder, Work(lambda: _epoch(module), facts))


def ours_volumes(setting: dict, device: str) -> Work:
    """Whole cases, as the first stage trains on them: after their first epoch they lie in memory, as on disk."""
    holder = tempfile.TemporaryDirectory()
    folder = Path(holder.name)
    module = data_module(setting["cases"], setting["volume"], setting["batch"], folder, keep_gb=4.0)
    facts = _facts(setting, _our_start(setting, folder), _epoch(module))
    return _keeping(holder, Work(lambda: _epoch(module), facts))


def _keeping(holder, work: Work) -> Work:
    """The temporary folder lives as long as the work."""

    def step() -> None:
        assert holder
        work.step()

    return Work(step, work.facts)


def _monai(setting: dict, files: list[Path], load, holder) -> Work:
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import Compose, Transform

    class Load(Transform):
        def __call__(self, file: Path) -> dict:
            return load(file)

    def cached(paths: list[Path]) -> CacheDataset:
        return CacheDataset(paths, Compose([Load()]), progress=False)

    loader = DataLoader(cached(files), batch_size=setting["batch"], shuffle=True, num_workers=0)

    def step() -> None:
        assert holder
        for _ in loader:
            pass

    # as many as `start_cases`, whatever files there are: some are read again
    paths = [files[i % len(files)] for i in range(setting["start_cases"])]
    return Work(step, _facts(setting, _seconds(lambda: cached(paths)), len(loader)))


def _words(file: Path) -> dict:
    """The entries of our items that are no tensors: both sides collate the same."""
    return {"label": 0, "id": file.stem, "index": 0, "step": 0}


def monai(setting: dict, device: str) -> Work:
    """Latents and X-rays in MONAI's memory."""
    from safetensors.torch import load_file, save_file

    holder = tempfile.TemporaryDirectory()
    files = [Path(holder.name) / f"{i}.safetensors" for i in range(setting["cases"])]
    for file in files:
        extra = {"xray": torch.rand(1, 1, XRAY, XRAY), "pose": torch.zeros(1, 9), "spacing": torch.full((3,), 4.0)}
        save_file({"latent": torch.randn(_latent_shape(setting)), **extra}, file)
    return _monai(setting, files, lambda f: {**load_file(f), **_words(f)}, holder)


def monai_volumes(setting: dict, device: str) -> Work:
    """Our case files, decoded and put into the window once, then in MONAI's memory."""
    from safetensors.torch import load_file

    holder = tempfile.TemporaryDirectory()
    module = data_module(setting["cases"], setting["volume"], setting["batch"], Path(holder.name))
    window = module.window

    def load(file: Path) -> dict:
        case = load_file(file)
        item = {"ct": window.normalise(case["ct"].float())[None], "xray": case["xray"].float()[:, None]}
        return {**item, "pose": case["pose"], "spacing": case["spacing"], **_words(file)}

    return _monai(setting, list(module.train.paths), load, holder)


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
