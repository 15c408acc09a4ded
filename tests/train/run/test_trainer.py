"""Errors of a training loop as one line, and buffers of several processes."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError
from train.run.trainer import ConstantBuffers, errors_as_lines
from vq_gan_3d import VQGAN3D

KILLED = "a data worker was killed"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), KILLED),
        (ConnectionResetError(104, "Connection reset by peer"), KILLED),  # killed while it sent a batch
        (EOFError(), KILLED),
        (OSError(28, "No space left on device"), "free space"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_known_error_becomes_one_line_with_its_remedy(error, expected):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(UserError) as caught, errors_as_lines(trainer, "model.resume=auto continues"):
        raise error
    message = str(caught.value)
    assert expected in message and message.endswith("model.resume=auto continues") and "\n" not in message
    assert ("model.num_workers" in message) == (expected == KILLED)


def test_a_killed_worker_is_found_behind_the_error_of_a_library():
    """torch raises from a signal handler, for example inside `inspect`, which turns every error into a TypeError."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(UserError, match=KILLED), errors_as_lines(trainer, "resume"):
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        except RuntimeError as error:
            raise TypeError("unsupported callable") from error


def test_an_unknown_error_stays_as_it_is():
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(TypeError, match="unsupported callable"), errors_as_lines(trainer, "resume"):
        raise TypeError("unsupported callable")


def start(found: nn.Module, network: nn.Module) -> None:
    ConstantBuffers().on_train_start(SimpleNamespace(strategy=SimpleNamespace(model=found)), network)


@pytest.mark.parametrize(
    ("network", "broadcast"),
    [
        (nn.Sequential(nn.Conv3d(1, 2, 1), nn.GroupNorm(1, 2)), False),
        (nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2)), True),
        (nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm3d(2))), False),
    ],
)
def test_buffers_are_broadcast_only_for_a_batch_norm_with_statistics_of_its_own(network, broadcast):
    found = Mock(spec=DistributedDataParallel, broadcast_buffers=True)
    start(found, network)
    assert found.broadcast_buffers is broadcast
    start(network, network)  # one process


def _learn_codes(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)  # other codes at the start, and other volumes
    network = VQGAN3D(n_codes=16, embedding_dim=2, n_hiddens=8, n_res_blocks=1, codebook_decay=0.5).train()
    network = DistributedDataParallel(network)
    start(network, network.module)
    for _ in range(4):
        network(torch.randn(1, 1, 8, 8, 8)).volume.square().mean().backward()
    torch.save({**network.module.state_dict(), "broadcast": network.broadcast_buffers}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.nightly
def test_codes_are_equal_in_all_processes_without_a_broadcast(tmp_path):
    mp.spawn(_learn_codes, (tmp_path,), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert int(one["codebook.updates"]) == 4 and not (one.pop("broadcast") or other.pop("broadcast"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
