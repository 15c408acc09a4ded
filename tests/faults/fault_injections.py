"""Faults that a child of the server puts into itself before its command starts."""

import os
import resource
import signal


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_checkpoint(moment: str, count: int) -> None:
    """Kills this process (-9) within the writing of its checkpoint number `count`."""
    from train.run import checkpoint_io

    class Doomed:
        """`os` as the writer of checkpoints sees it."""

        saves = 0

        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, handle):
            type(self).saves += 1
            doomed = self.saves == count
            if doomed and moment == "half_written":
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
                _die()
            if doomed and moment == "before_sync":
                _die()
            os.fsync(handle)
            if doomed and moment == "after_sync":
                _die()

        def replace(self, source, target):
            os.replace(source, target)
            previous = os.path.basename(target) == checkpoint_io.PREVIOUS
            if self.saves == count and moment == ("between_names" if previous else "after_rename"):
                _die()

    checkpoint_io.os = Doomed()


def small_files(bytes: int) -> None:
    """No file may become larger: the write fails as on a full disk, with an error of the system."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, bytes))


def kill_at_file(moment: str, count: int) -> None:
    """Kills this process (-9) within the writing of its file number `count` of those that appear by a rename."""
    from common import files

    class Doomed:
        """`os` as the writer of files sees it."""

        started = 0

        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, handle):
            type(self).started += 1
            if self.started == count and moment == "half_written":
                path = os.readlink(f"/proc/self/fd/{handle}")
                os.truncate(path, os.path.getsize(path) // 2)
                _die()
            if self.started == count and moment == "before_sync":
                _die()
            os.fsync(handle)

        def replace(self, source, target):
            if self.started == count and moment == "before_rename":
                _die()
            os.replace(source, target)
            if self.started == count and moment == "after_rename":
                _die()

    files.os = Doomed()


def slow_files(seconds: float) -> None:
    """Each file that appears by a rename takes that long."""
    import time

    from common import files

    class Slow:
        """`os` as the writer of files sees it."""

        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, handle):
            time.sleep(seconds)
            os.fsync(handle)

    files.os = Slow()


def _before_step(act) -> None:
    """Calls `act(step, batch)` before every training step of both stages."""
    from ddpm.module import DDPMModule
    from vq_gan_3d.module import VQGANModule

    for module in (DDPMModule, VQGANModule):

        def step(self, batch, batch_idx, original=module.training_step):
            numbers = batch["step"]
            act(int(numbers[0]), batch)
            return original(self, batch, batch_idx)

        module.training_step = step


def slow_batches(seconds: float, first: int = 0) -> None:
    """Every batch from that number on takes that long."""
    import time

    _before_step(lambda step, batch: time.sleep(seconds) if step >= first else None)


def slow_sampling(seconds: float) -> None:
    """Sampled volumes take that long; a file `sampling` says that they are being made."""
    import time
    from pathlib import Path

    from train.run.callbacks import SampleAndScore

    original = SampleAndScore.pipeline

    def slowly(self, module):
        if module.ema.in_use:  # in training, not in the check before it
            Path("sampling").touch()
            time.sleep(seconds)
        return original(self, module)

    SampleAndScore.pipeline = slowly


def nan_at_step(steps: list[int]) -> None:
    """The volumes or latents of these batches hold a NaN."""

    def spoil(step: int, batch: dict) -> None:
        if step in steps:
            key = "latent" if "latent" in batch else "ct"
            batch[key] = batch[key].clone()
            batch[key][0, 0, 0, 0, 0] = float("nan")

    _before_step(spoil)


def no_device_memory(step: int) -> None:
    """The step with that number finds no memory on the device."""
    import torch

    def refuse(number: int, batch: dict) -> None:
        if number == step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.")

    _before_step(refuse)


def starve_worker(batch: int) -> None:
    """A loading process is killed (-9) at its batch of that number, as the kernel does when memory ends."""
    from torch.utils.data import get_worker_info

    from dataset.cases.case_dataset import CaseDataset
    from ddpm.latent.latent_dataset import LatentDataset

    taken = [0]

    def counted(original):
        def take(self, key):
            if get_worker_info() is not None:
                taken[0] += 1
                if taken[0] >= batch:
                    _die()
            return original(self, key)

        return take

    CaseDataset.__getitems__ = counted(CaseDataset.__getitems__)
    LatentDataset.__getitems__ = counted(LatentDataset.__getitems__)


def starve_builder(case: int) -> None:
    """The process that prepares case number `case` is killed (-9)."""
    from dataset.cases import store as cases

    original = cases._Builder.__getitem__

    def build(self, index):
        if index == case:
            _die()
        return original(self, index)

    cases._Builder.__getitem__ = build


def spoil_at_step(step: int, how: str, also: str | None = None) -> None:
    """Before that step all cases on disk are damaged, and the folder `also` is emptied."""
    from pathlib import Path

    import torch
    from safetensors import safe_open

    def spoil(number: int, batch: dict) -> None:
        if number != step:
            return
        for path in Path("cache").glob("*/cases/*.safetensors"):
            if "phantom_1" in path.name or "phantom_2" in path.name:  # of validation and test, which may rest
                continue
            if how == "gone":
                path.unlink()
            elif how == "cut":
                os.truncate(path, path.stat().st_size // 2)
            else:
                with safe_open(path, framework="pt") as file:
                    wanted = file.get_tensor("ct").contiguous().view(torch.uint8).numpy().tobytes()
                data = bytearray(path.read_bytes())
                data[bytes(data).index(wanted) + 100] ^= 0x40
                path.write_bytes(bytes(data))
        for path in Path(also).iterdir() if also else ():
            path.unlink()

    _before_step(spoil)
