"""Adds parts that need no training to a finished model: `python train/fit_parts.py checkpoint=<path>`.

A new training measures the decoder's residual and the spread of the training volumes itself, which checkpoints of
earlier versions lack. The projection consistency is always added here: with it, samples for X-rays of known pose agree
with them by default and take about ten times as long.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("fit_parts")
def main(cfg) -> None:
    """Fits the missing parts on training cases and writes the model with them, or a lung guide alone, as a file."""
    from hydra.utils import instantiate

    from dataset.datamodule import split_cases
    from ddpm.checkpoint.load import load_pipeline
    from ddpm.checkpoint.write import add_parts, output_file
    from evaluation.generation.open_pipeline import SHIPPED, find_checkpoint, resolve_device
    from evaluation.protocol.checkpoint_data import take_data_of_checkpoint
    from evaluation.protocol.data_checks import check_protocol
    from train.generator.fit_missing import FITTED_LATER, fit_parts, missing_parts
    from train.lungs.fit_lung_guide import LUNG_GUIDE, write_lung_guide

    checkpoint, device = find_checkpoint(cfg.checkpoint, shipped=SHIPPED), resolve_device(cfg.device)
    alone = list(cfg.parts or ()) == [LUNG_GUIDE]
    output = output_file(cfg.output, checkpoint, LUNG_GUIDE if alone else "completed", cfg.overwrite)
    pipeline = load_pipeline(checkpoint)
    names = [LUNG_GUIDE] if alone else missing_parts(pipeline, cfg.parts)
    if not names:
        print(f"{checkpoint}: it has {', '.join(cfg.parts or FITTED_LATER)} already; nothing was written")
        return
    take_data_of_checkpoint(cfg, "fit_parts", pipeline.protocol, checkpoint)
    cases, protocol = split_cases(instantiate(cfg.dataset.source), cfg.dataset, "train", pipeline.protocol)
    check_protocol(protocol, pipeline.protocol)
    if alone:
        print(write_lung_guide(pipeline, cases, device, output))
        return
    parts = fit_parts(pipeline, names, cases, device)
    print(add_parts(checkpoint, pipeline, parts, output) if parts else "nothing was written")


if __name__ == "__main__":
    main()
