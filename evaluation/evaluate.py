"""Evaluates a trained generator on held-out cases beside baselines: CSV, metrics.json, pictures and a report.

`python evaluation/evaluate.py checkpoint=<path> dataset=phantom samples=4`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("evaluate")
def main(cfg) -> None:
    from dataclasses import fields

    from hydra.utils import instantiate

    from common.environment import save_config
    from common.files import check_output, result_folder
    from dataset.datamodule import prepared_data
    from evaluation.generation.open_pipeline import SHIPPED, open_generator, resolve_device
    from evaluation.generation.sample import Sampling
    from evaluation.intervals.prediction_intervals import find_intervals
    from evaluation.protocol.checkpoint_data import take_data_of_checkpoint
    from evaluation.reporting.html_report import write_report
    from evaluation.scoring.evaluator import RESULTS, EvaluationSettings, Evaluator
    from evaluation.scoring.summary import sentence

    # settings and missing weights are checked before the work; earlier results are removed after all refusals
    check_output(cfg.output, RESULTS, cfg.overwrite)
    settings = EvaluationSettings(**{field.name: cfg[field.name] for field in fields(EvaluationSettings)})
    sampling = Sampling(cfg.samples, cfg.seed, cfg.batch_size)
    extractor = instantiate(cfg.extractor, device=str(resolve_device(cfg.device)))
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler, shipped=SHIPPED, several=True)
    take_data_of_checkpoint(cfg, "evaluate", pipeline.protocol, checkpoint)
    datamodule = prepared_data(instantiate(cfg.dataset.source), cfg.dataset)
    intervals = find_intervals(None, checkpoint)
    evaluator = Evaluator(datamodule, pipeline, sampling, settings, checkpoint, extractor, intervals)
    inputs = evaluator.read_inputs()
    output = result_folder(cfg.output, "evaluate", RESULTS, cfg.overwrite)
    save_config(cfg, output)  # the report shows it
    result = evaluator.run(inputs, output)
    write_report(output, {"VQ-GAN": cfg.vqgan_run, "DDPM": cfg.ddpm_run})
    print(sentence(result))
    print(output / "report.html")


if __name__ == "__main__":
    main()
