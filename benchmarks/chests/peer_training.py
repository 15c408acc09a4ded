"""Trains the peer on the training cases of a data module, for a fixed number of steps; a stopped training resumes."""

import time
from pathlib import Path

import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from benchmarks.chests.peer import Peer, make_optimizers, train_step
from common.autocast import inference_autocast
from common.files import atomic_path
from dataset.cases.step_sampler import StepBatchSampler

SAVE_EVERY = 200  # steps


def train_peer(data, path: Path, steps: int, batch_size: int = 1, width: int = 8, seed: int = 0) -> Peer:
    """The peer after `steps` steps on `data.train` of cubes; its state is in `path` after every `SAVE_EVERY` steps.

    The samples of a step depend on the seed and the step alone, so a resumed training sees the same ones.
    """
    size = data.protocol()["volume_size"][0]
    torch.manual_seed(seed)
    peer = Peer(size, width).train()
    optimizers, done = make_optimizers(peer), 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        peer.load_state_dict(state["peer"])
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        done = state["done"]
    sampler = StepBatchSampler(len(data.train), batch_size, steps, seed, start=min(done, steps))
    for step, keys in track(enumerate(sampler, start=done + 1), "training the peer", total=len(sampler) - done):
        batch = data.train.collate(data.train.__getitems__(keys))
        train_step(peer, optimizers, batch["xray"][:, 0], batch["ct"], batch.get("scanned"))
        if step % SAVE_EVERY == 0 or step == steps:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                state = {"peer": peer.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "done": step}
                torch.save(state, temporary)
    return peer.eval()


def milliseconds_a_step(size: int, batch_size: int = 1, width: int = 8, steps: int = 6) -> float:
    """Median time of a step on this machine, without the first two."""
    peer = Peer(size, width)
    optimizers, times = make_optimizers(peer), []
    for _ in range(steps):
        start = time.perf_counter()
        train_step(peer, optimizers, torch.rand(batch_size, 1, size, size), torch.zeros(batch_size, 1, *[size] * 3))
        times.append(1000.0 * (time.perf_counter() - start))
    return sorted(times[2:])[len(times[2:]) // 2]


@torch.no_grad()
def predict(peer: Peer, xrays: Float[Tensor, "n v 1 h w"], window) -> Float[Tensor, "n d h w"]:
    """Volumes in HU of the first view of each X-ray."""
    with inference_autocast(torch.device("cpu")):
        volumes = [peer.generator(xray[:1].float()).float()[0, 0] for xray in xrays]
    return window.denormalise(torch.stack(volumes))
