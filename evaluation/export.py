"""Writes a trained generator for others: a folder of diffusers, a MONAI bundle or one file, each with a model card.

`python evaluation/export.py checkpoint=<path> output=<folder> format=diffusers`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from dataset.command import command  # noqa: E402


@command("export")
def main(cfg) -> None:
    from omegaconf import OmegaConf

    from ddpm.checkpoint import load_pipeline
    from evaluation.sampling import SHIPPED, find_checkpoint, set_sampler
    from evaluation.sharing import check_wishes, export, read_metrics

    check_wishes(cfg.format, cfg.precision)
    checkpoint = find_checkpoint(cfg.checkpoint, shipped=SHIPPED)
    print(f"checkpoint: {checkpoint}")
    metrics = read_metrics(cfg.metrics, checkpoint)
    pipeline = load_pipeline(checkpoint)
    set_sampler(pipeline, OmegaConf.to_container(cfg.sampler, resolve=True))
    print(export(pipeline, Path(cfg.output), cfg.format, checkpoint, metrics, cfg.name, cfg.precision, cfg.seen))


if __name__ == "__main__":
    main()
