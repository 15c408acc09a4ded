"""Exports a trained generator for diffusers, MONAI or torch.export, or as one file, with a model card; uploads it.

`python evaluation/export.py checkpoint=<path> output=<folder> format=diffusers push=<user>/<name>`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("export")
def main(cfg) -> None:
    from common.files import result_folder
    from ddpm.weights.hub import upload
    from evaluation.generation.open_pipeline import SHIPPED, find_checkpoint, open_generator
    from evaluation.sharing.exporter import check_options, export, read_metrics

    check_options(cfg.format, cfg.precision, cfg.push)
    metrics = read_metrics(cfg.metrics, find_checkpoint(cfg.checkpoint, shipped=SHIPPED)) if cfg.metrics else None
    pipeline, checkpoint = open_generator(cfg.checkpoint, "cpu", cfg.sampler, shipped=SHIPPED)
    options = {"precision": cfg.precision, "seen": cfg.seen, "overwrite": cfg.overwrite, "hub_id": cfg.push}
    output = result_folder(cfg.output, "export")
    print(export(pipeline, output, cfg.format, checkpoint, metrics, cfg.name, **options))
    if cfg.push:
        print(upload(output, cfg.push, private=cfg.private, message=f"Upload {cfg.name}"))


if __name__ == "__main__":
    main()
