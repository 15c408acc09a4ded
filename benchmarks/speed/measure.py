"""Times the implementations of a row in turn, each in its own process, so that memory and libraries are separate.

Every repeat times all implementations once; the order is reversed from repeat to repeat, so that a slow drift of the
machine affects all equally.
"""

import math
import multiprocessing
import platform
import statistics
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.speed.roofline import count, machine_peak
from benchmarks.speed.workload import Row, Work
from benchmarks.timing import machine_name, timed

LEAST_SECONDS = 0.2  # of one repeat; short work is repeated within it
WARM_UPS = 2

_prepared: dict[str, object] = {}  # work and calls a repeat, in the process of one implementation


def check_device(device: str) -> None:
    """Raises ValueError if `device` is a GPU and torch finds none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--gpu, --device cuda: torch finds no GPU here; leave the option out")


class SideFailed(RuntimeError):
    """An implementation could not be measured; the message is its traceback."""


def measure(row: Row, setting: dict, device: str, repeats: int, threads: int | None, skip: set[str] = frozenset()):
    """Seconds, peak memory and facts of every implementation; SideFailed if ours, the first, fails.

    Returns:
        Name to `{"seconds": [one per repeat], "peak_mb", "base_mb", **facts}`, or `{"error": text}` for a third party.
    """
    spawn, found = multiprocessing.get_context("spawn"), {}
    with ExitStack() as stack:
        sides = {n: stack.enter_context(ProcessPoolExecutor(1, spawn)) for n in row.sides if n not in skip}

        def ask(name: str, function, *arguments):
            try:
                return sides[name].submit(function, *arguments).result()
            except Exception as error:
                raise SideFailed(f"{name}: {''.join(traceback.format_exception(error))}") from error

        for name in list(sides):
            try:
                prepared = ask(name, _prepare, row.sides[name], setting, device, threads)
                found[name] = {"seconds": [], "cpu_seconds": [], **prepared}
            except SideFailed as error:
                if not found:
                    raise
                found[name] = {"error": str(error).strip().splitlines()[-1], "traceback": str(error)}
                sides.pop(name).shutdown()
        for repeat in range(repeats):
            for name in list(sides)[:: 1 if repeat % 2 == 0 else -1]:
                wall, cpu = ask(name, _repeat, device)
                found[name]["seconds"].append(wall)
                found[name]["cpu_seconds"].append(cpu)
        for name in sides:
            found[name].update(ask(name, _finish, device))
    return found


def _prepare(make, setting: dict, device: str, threads: int | None) -> dict:
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    if device == "cuda":
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats()
    work = make(setting, device)
    base = peak_mb(device) if device == "cpu" else 0.0
    _prepared.update(work=work, calls=1)
    for _ in range(WARM_UPS):
        seconds, _ = _repeat(device)
    _prepared["calls"] = max(1, math.ceil(LEAST_SECONDS / max(seconds, 1e-6)))
    return {"inner": _prepared["calls"], "base_mb": base, **work.facts}


def _repeat(device: str) -> tuple[float, float]:
    if device == "cuda":
        _prepared["work"].step()  # allocates again what `_free` released
    seconds = timed(_prepared["work"].step, _prepared["calls"], device)
    _free(device)
    return seconds


def _finish(device: str) -> dict:
    work: Work = _prepared["work"]
    found = {"peak_mb": peak_mb(device), **work.finish()}
    if work.roofline is not None:
        found["roofline"] = {**count(work.roofline), **machine_peak(device)}
    _free(device)
    return found


def _free(device: str) -> None:
    if device == "cuda":  # the processes share one GPU; all caches at once would not fit
        torch.cuda.empty_cache()


def peak_mb(device: str) -> float:
    """Peak memory so far in MiB: allocated on a GPU; resident in this process on a CPU, libraries included."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss of a spawned process starts at its parent's peak, VmHWM does not
        line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def summarise(row: Row, found: dict, setting: dict, machine: dict) -> dict:
    """One row of the JSON list: ours, the third party of the ratio, and the other implementations under `others`."""
    ours_name, *peers = found
    ours = found[ours_name]
    for side in found.values():
        if "roofline" in side:  # share of the bfloat16 peak that the same process measured
            rate = side["roofline"]["gflop"] / 1e3 / statistics.median(side["seconds"])
            side["share_of_peak"] = rate / side["roofline"]["bf16_tflops"]
    beside = {name: _beside(name, found[name], ours, row.times) for name in peers}
    compared = [n for n in peers if "error" not in found[n] and not n.startswith("ours")]  # no variants of ours
    main = None
    if compared:
        fastest = min(compared, key=lambda name: beside[name]["peer_s"])
        main = beside[fastest if row.fastest else peers[0]]
        main = None if "error" in main else main
    return {
        "name": row.name,
        "what": row.what,
        "ours_s": statistics.median(ours["seconds"]),
        "ours_spread": [min(ours["seconds"]), max(ours["seconds"])],
        "ours_cpu_s": statistics.median(ours["cpu_seconds"]),
        **(main or {"peer": None, "peer_s": None, "ratio": None, "peer_peak_mb": None}),
        "peak_mb": ours["peak_mb"],
        "ours": _facts(ours),
        "others": [b for b in beside.values() if b is not main],
        "repeats": len(ours["seconds"]),
        "setting": {k: v for k, v in setting.items() if k != "networks"},
        "device": machine["device"],
        "machine": machine["name"],
        "versions": machine["versions"],
    }


def _beside(name: str, peer: dict, ours: dict, times: int) -> dict:
    if "error" in peer:
        return {"peer": name, "error": peer["error"]}
    scaled = [s * times for s in peer["seconds"]]
    ratios = [p / o for p, o in zip(scaled, ours["seconds"], strict=True)]
    cpu = statistics.median(peer["cpu_seconds"]) * times
    return {
        "peer": name,
        "peer_s": statistics.median(scaled),
        "peer_spread": [min(scaled), max(scaled)],
        "ratio": statistics.median(scaled) / statistics.median(ours["seconds"]),
        "ratio_spread": [min(ratios), max(ratios)],
        "peer_cpu_s": cpu,
        "cpu_ratio": cpu / max(statistics.median(ours["cpu_seconds"]), 1e-9),
        "peer_peak_mb": peer["peak_mb"],
        "peer_facts": _facts(peer),
    }


def _facts(side: dict) -> dict:
    return {k: v for k, v in side.items() if k not in ("seconds", "cpu_seconds", "peak_mb")}


def machine(device: str, threads: int | None) -> dict:
    """`{"device", "name", "versions"}`."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"device": device, "name": machine_name(device, threads), "versions": versions}
