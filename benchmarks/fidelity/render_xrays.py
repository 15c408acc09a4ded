"""Renders the X-rays of the benchmark for machines without the renderer.

`python benchmarks/fidelity/render_xrays.py 128 FILE`
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)


CALIBRATION = 30_000_000, 256  # first population index and number of the cases for prediction intervals


def render(job: tuple):
    """The X-rays `(v, h, w)` in [0, 1] of one phantom, as rendered by its data set."""
    import torch

    index, source = job
    torch.set_num_threads(1)
    return source.build({"id": f"phantom_{index:08d}"})["xray"].float()


def main() -> None:
    """Renders all X-rays of a size into one file."""
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate
    from rich.progress import track

    from benchmarks.fidelity.stored_xrays import write_xrays
    from dataset.manifest.table import SPLITS
    from dataset.sources.phantom import FIRST_INDEX

    if len(sys.argv) != 3 or sys.argv[1] not in ("64", "128"):
        raise SystemExit("usage: python benchmarks/fidelity/render_xrays.py 64|128 FILE")
    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        data = compose("train_ddpm", [f"experiment=fidelity_{sys.argv[1]}"]).dataset
    source, parts = instantiate(data.source), [(FIRST_INDEX[split], data[split]) for split in SPLITS]
    chosen = [first + i for first, count in (*parts, CALIBRATION) for i in range(count)]
    with ProcessPoolExecutor() as pool:
        jobs = pool.map(render, [(index, source) for index in chosen], chunksize=8)
        xrays = torch.stack(list(track(jobs, description="Rendering X-rays", total=len(chosen))))
    write_xrays(sys.argv[2], chosen, xrays)


if __name__ == "__main__":
    main()
