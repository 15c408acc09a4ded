"""The timer of all benchmarks, and the machine that they name."""

import time
from collections.abc import Callable

import torch

from common import environment


def timed(work: Callable[[], object], calls: int = 1, device: str = "cpu") -> tuple[float, float]:
    """Wall-clock and CPU seconds per call; the latter do not depend on other processes."""
    _wait(device)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        work()
    _wait(device)
    return (time.perf_counter() - start) / calls, (time.process_time() - cpu) / calls


def machine_name(device: str | None = None, threads: int | None = None) -> str:
    """The GPU (`cuda`, or None where there is one), else the threads and the name of the processor."""
    found = environment.machine()
    if device == "cuda" or (device is None and found["gpu"]):
        return found["gpu"]
    return f"{threads or found['threads']} cores, {found['processor']}"


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
