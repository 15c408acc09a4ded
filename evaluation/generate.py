"""Turns X-ray files into synthetic CT volumes: NIfTI in HU, GIF and PNG, and a DICOM series if asked for.

`python evaluation/generate.py xray=<file or folder> checkpoint=<path>`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("generate")
def main(cfg) -> None:
    from common.files import sha256
    from evaluation.generation.open_pipeline import SHIPPED, open_generator
    from evaluation.generation.write_volumes import find_xrays, generate
    from evaluation.intervals.prediction_intervals import error_bars, find_bounds
    from evaluation.visualization.slices import SYNTHETIC

    xrays = find_xrays(cfg.xray)
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler, shipped=SHIPPED)
    bounds = find_bounds(cfg.bounds, checkpoint)
    paths = generate(
        pipeline,
        xrays,
        Path(cfg.output),
        samples=cfg.samples,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        checkpoint=checkpoint,
        align=cfg.align,
        view=cfg.view,
        dicom=cfg.dicom,
        bounds=bounds,
    )
    print(SYNTHETIC)
    nominal = pipeline.protocol.get("input") != "volume"  # a film does not tell its patient's size
    bars = error_bars(pipeline.describe(), cfg.samples, sha256(checkpoint), bounds, nominal)
    print(f"error bars: {bars['name']} ({bars.get('reason') or bars['words']})")
    if "preview" in bars:
        print(bars["preview"])
    for path in paths:
        print(path)


if __name__ == "__main__":
    main()
