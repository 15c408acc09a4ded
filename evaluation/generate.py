"""Turns X-ray files into synthetic CT volumes: NIfTI in HU, GIF and PNG, and a DICOM series on request.

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
    from evaluation.generation.sample import Sampling
    from evaluation.generation.write_volumes import find_xrays, generate
    from evaluation.intervals.prediction_intervals import error_bars, find_intervals
    from evaluation.visualization.slices import SYNTHETIC

    sampling, xrays = Sampling(cfg.samples, cfg.seed, cfg.batch_size), find_xrays(cfg.xray)
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler, shipped=SHIPPED)
    intervals = find_intervals(cfg.bounds, checkpoint)
    options = {"align": cfg.align, "view": cfg.view, "intervals": intervals, "dicom": cfg.dicom}
    options["allow_any_picture"] = cfg.allow_any_picture
    paths = generate(pipeline, xrays, Path(cfg.output), sampling, checkpoint, **options)
    print(SYNTHETIC)
    nominal = pipeline.protocol.get("input") != "volume"  # a radiograph does not show its patient's size
    bars = error_bars(pipeline.describe(), cfg.samples, sha256(checkpoint), intervals, nominal)
    print(f"error bars: {bars['name']} ({bars.get('reason') or bars['words']})")
    if "preview" in bars:
        print(bars["preview"])
    for path in paths:
        print(path)


if __name__ == "__main__":
    main()
