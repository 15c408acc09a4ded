"""Seconds, bytes and memory of preparing phantom CTs, for growing numbers of cases and processes.

`python benchmarks/scale/cases.py --cases 100 1000 --processes 0 2 [--ct 96 80 104] [--size 64] [--xray 128]` prints a
row of JSON for each measurement. The CTs are one phantom with other noise; `--links` lets them share 20 files, so that
many cases need little disk.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from dataset.cases.store import prepare_cases  # noqa: E402
from dataset.io.nifti import write_nifti  # noqa: E402
from dataset.phantom.render import render_phantom  # noqa: E402
from dataset.sources.folder import FolderSource  # noqa: E402
from dataset.sources.settings import Files, Geometry, Splits, Xrays  # noqa: E402

DISTINCT = 20  # files that `links` share


def write_scans(folder: Path, count: int, shape: tuple[int, int, int], links: bool) -> None:
    """`count` NIfTI files of a phantom with noise; with `links` hard links to `DISTINCT` of them."""
    phantom, rng = render_phantom(20000900, size=shape), np.random.default_rng(0)
    for number in range(count):
        path = folder / f"ct_{number:06d}.nii.gz"
        if links and number >= DISTINCT:
            os.link(folder / f"ct_{number % DISTINCT:06d}.nii.gz", path)
            continue
        noisy = phantom.hu + rng.normal(0.0, 10.0, phantom.hu.shape)
        write_nifti(path, noisy, phantom.spacing, description="original CT")


def measure(scans: Path, cache: Path, size: int, xray: int, processes: int) -> dict:
    """Wall and CPU seconds, bytes of the cases and peak memory of a process for the preparation of a folder."""
    wall, cpu = time.perf_counter(), _cpu()
    source = FolderSource(Files(scans), Geometry((size,) * 3), Xrays((xray, xray)), Splits(cache_dir=str(cache)))
    listed = time.perf_counter() - wall
    files = prepare_cases(source, cache, workers=processes)
    seconds = time.perf_counter() - wall
    return {
        "cases": len(files),
        "processes": processes,
        "wall_s": round(seconds, 2),
        "listing_s": round(listed, 2),
        "cpu_s_per_case": round((_cpu() - cpu) / len(files), 4),
        "cases_per_s": round(len(files) / seconds, 2),
        "bytes_per_case": sum(file.stat().st_size for file in files) // len(files),
        "peak_mb": max(_peaks()) // 1024,
    }


def _peaks() -> list[int]:
    """Peak memory in KiB of this process and of the largest of its ended children."""
    return [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _cpu() -> float:
    """CPU seconds of this process and of its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, nargs="+", default=[100])
    parser.add_argument("--processes", type=int, nargs="+", default=[0])
    parser.add_argument("--ct", type=int, nargs=3, default=[96, 80, 104])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--xray", type=int, default=128)
    parser.add_argument("--links", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for count in given.cases:
        with tempfile.TemporaryDirectory() as folder:
            (scans := Path(folder) / "in").mkdir()
            write_scans(scans, count, tuple(given.ct), given.links)
            for processes in given.processes:
                with tempfile.TemporaryDirectory() as cache:
                    row = measure(scans, Path(cache), given.size, given.xray, processes)
                print(json.dumps(row), flush=True)
