"""Judges a trained generator on unseen cases beside the baselines: CSV, metrics.json, pictures and a report.

`python evaluation/evaluate.py checkpoint=<path> dataset=phantom samples=4`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("evaluate")
def main(cfg) -> None:
    from hydra.utils import instantiate

    from common.environment import save_config
    from dataset.datamodule import prepared_data
    from evaluation.generation.open_pipeline import open_generator, resolve_device
    from evaluation.scoring.evaluator import evaluate
    from evaluation.scoring.summary import sentence

    # weights that are missing are told before the work
    extractor = instantiate(cfg.extractor, device=str(resolve_device(cfg.device)))
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler)
    data = cfg.dataset
    datamodule = prepared_data(instantiate(data.source), data)
    output = Path(cfg.output)
    save_config(cfg, output)  # before the report, which shows it
    result = evaluate(
        datamodule,
        pipeline,
        output,
        samples=cfg.samples,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        split=cfg.split,
        allow_seen_patients=cfg.allow_seen_patients,
        cases=cfg.cases,
        nifti=cfg.nifti,
        methods=tuple(cfg.methods),
        metrics=cfg.metrics if isinstance(cfg.metrics, str) else tuple(cfg.metrics),
        registration=cfg.registration,
        extractor=extractor,
        lpips=cfg.lpips,
        totalsegmentator=cfg.totalsegmentator,
        checkpoint=checkpoint,
        runs={"VQ-GAN": cfg.vqgan_run, "DDPM": cfg.ddpm_run},
    )
    print(sentence(result))
    print(output / "report.html")


if __name__ == "__main__":
    main()
