"""Times the implementations of a row in turn, each in its own process, so that memory and libraries are separate.

Every repeat times all implementations once; the order is reversed from repeat to repeat, so that a slow drift of the
machine affects all equally.
"""

import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
import traceback
from pathlib import Path

from benchmarks.speed.workload import Row, Work

LEAST_SECONDS = 0.2  # of one repeat; short work is repeated within it
WARM_UPS = 2


def check_device(device: str) -> None:
    """Raises ValueError if `device` is a GPU and torch finds none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--gpu, --device cuda: torch finds no GPU here; leave the option out")


class SideFailed(RuntimeError):
    """An implementation could not be measured; the message is its traceback."""


def measure(row: Row, setting: dict, device: str, repeats: int, threads: int | None, skip: set[str] = frozenset()):
    """Seconds, peak memory and facts of every implementation.

    Returns:
        Name to `{"seconds": [one per repeat], "peak_mb", "base_mb", **facts}`, or `{"error": text}` for a peer.

    Raises:
        SideFailed: if ours, the first side, fails.
    """
    sides = {n: _Side(n, f, setting, device, threads) for n, f in row.sides.items() if n not in skip}
    found: dict[str, dict] = {}
    try:
        for name, side in list(sides.items()):
            try:
                found[name] = {"seconds": [], "cpu_seconds": [], **side.ask("prepare")}
            except SideFailed as error:
                if name == next(iter(row.sides)):
                    raise
                found[name] = {"error": str(error).strip().splitlines()[-1], "traceback": str(error)}
                sides.pop(name).close()
        for repeat in range(repeats):
            order = list(sides) if repeat % 2 == 0 else list(reversed(sides))
            for name in order:
                wall, cpu = sides[name].ask("repeat")
                found[name]["seconds"].append(wall)
                found[name]["cpu_seconds"].append(cpu)
        for name, side in sides.items():
            found[name].update(side.ask("finish"))
    finally:
        for side in sides.values():
            side.close()
    return found


class _Side:
    def __init__(self, name, make, setting, device, threads):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, setting, device, threads), daemon=False)
        self.process.start()
        theirs.close()

    def ask(self, what: str):
        try:
            self.connection.send(what)
            kind, answer = self.connection.recv()
        except (EOFError, BrokenPipeError) as error:
            self.process.join(5)
            raise SideFailed(f"{self.name}: its process ended with exit code {self.process.exitcode}") from error
        if kind == "error":
            raise SideFailed(f"{self.name}: {answer}")
        return answer

    def close(self) -> None:
        self.connection.close()  # the process ends at the end of the pipe
        self.process.join(30)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def _serve(connection, make, setting: dict, device: str, threads: int | None) -> None:
    work, inner = None, 1
    while True:
        try:
            what = connection.recv()
        except EOFError:
            return
        try:
            if what == "prepare":
                base, work, inner = _prepare(make, setting, device, threads)
                answer = {"inner": inner, "base_mb": base, **work.facts}
            elif what == "repeat":
                answer = _timed(work, inner, device)
            else:
                answer = {"peak_mb": peak_mb(device), **work.finish(), **_roofline(work, device)}
                _free(device)
            connection.send(("ok", answer))
        except Exception:  # noqa: BLE001 (the parent handles the error)
            connection.send(("error", traceback.format_exc()))


def _prepare(make, setting: dict, device: str, threads: int | None) -> tuple[float, Work, int]:
    import torch

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    if device == "cuda":
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats()
    work = make(setting, device)
    base = peak_mb(device) if device == "cpu" else 0.0
    for _ in range(WARM_UPS):
        seconds, _ = _timed(work, 1, device)
    return base, work, max(1, math.ceil(LEAST_SECONDS / max(seconds, 1e-6)))


def _timed(work: Work, inner: int, device: str) -> tuple[float, float]:
    """Wall-clock seconds and CPU seconds of this process; the latter do not depend on other processes."""
    if device == "cuda":
        work.step()  # allocates again what `_free` released
    _wait(device)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(inner):
        work.step()
    _wait(device)
    seconds = (time.perf_counter() - start) / inner, (time.process_time() - cpu) / inner
    _free(device)
    return seconds


def _free(device: str) -> None:
    if device == "cuda":  # the processes share one GPU; all caches at once would not fit
        import torch

        torch.cuda.empty_cache()


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _roofline(work: Work, device: str) -> dict:
    if work.roofline is None:
        return {}
    from benchmarks.speed.roofline import count, machine_peak

    return {"roofline": {**count(work.roofline), **machine_peak(device)}}


def peak_mb(device: str) -> float:
    """Peak memory so far in MiB: allocated on a GPU; resident in this process on a CPU, libraries included."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss of a spawned process starts at its parent's peak, VmHWM does not
        line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def summarise(row: Row, found: dict, setting: dict, machine: dict) -> dict:
    """One row of the JSON list: ours, the peer of the ratio, and the other implementations under `others`."""
    ours_name, *peers = found
    ours = found[ours_name]
    whole = [name for name in peers if "error" not in found[name]]
    compared = [name for name in whole if not name.startswith("ours")]  # variants of ours are no peers
    for name in (ours_name, *whole):
        _add_share(found[name])
    beside = [_beside(name, found[name], ours, row.times) for name in peers]
    main = None
    if compared:
        wanted = min(compared, key=lambda n: statistics.median(found[n]["seconds"])) if row.fastest else peers[0]
        main = next((b for b in beside if b["peer"] == wanted and "error" not in b), None)
    seconds = ours["seconds"]
    return {
        "name": row.name,
        "what": row.what,
        "ours_s": statistics.median(seconds),
        "ours_spread": [min(seconds), max(seconds)],
        "ours_cpu_s": statistics.median(ours["cpu_seconds"]),
        **(main or {"peer": None, "peer_s": None, "ratio": None, "peer_peak_mb": None}),
        "peak_mb": ours["peak_mb"],
        "ours": _facts(ours),
        "others": [b for b in beside if b is not main],
        "repeats": len(seconds),
        "setting": {k: v for k, v in setting.items() if k != "networks"},
        "device": machine["device"],
        "machine": machine["name"],
        "versions": machine["versions"],
    }


def _add_share(side: dict) -> None:
    """Operations per second over the bfloat16 peak measured in the same process."""
    if "roofline" in side:
        rate = side["roofline"]["gflop"] / 1e3 / statistics.median(side["seconds"])
        side["share_of_peak"] = rate / side["roofline"]["bf16_tflops"]


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
    """`{"device", "name", "versions"}`; measured in the parent, so that it does not count as memory of the work."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next((x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), cpu)
    name = f"{cpu}, {threads or torch.get_num_threads()} of {os.cpu_count()} threads"
    if device == "cuda":
        name = torch.cuda.get_device_name()
    return {
        "device": device,
        "name": name,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
