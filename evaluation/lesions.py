"""Measures which lesions a generator keeps, in phantoms or CTs, beside regressions.

`python evaluation/lesions.py checkpoint=<path> samples=4`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("lesions")
def main(cfg) -> None:
    from hydra.utils import instantiate

    from common.environment import machine
    from common.files import check_output, result_folder
    from dataset.datamodule import prepared_data, split_cases
    from evaluation.detectability.detect import score_lesions, summarise
    from evaluation.detectability.lesion_cases import LesionCases, with_lesions
    from evaluation.detectability.report import RESULTS, write_lesions
    from evaluation.generation.metadata import describe_run
    from evaluation.generation.open_pipeline import SHIPPED, open_generator
    from evaluation.generation.sample import Sampling
    from evaluation.protocol.checkpoint_data import take_data_of_checkpoint
    from evaluation.protocol.data_checks import check_protocol
    from evaluation.protocol.leakage import check_patient_leakage
    from evaluation.scoring.baselines import Baselines

    check_output(cfg.output, RESULTS, cfg.overwrite)
    sampling = Sampling(cfg.samples, cfg.seed, cfg.batch_size)
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler, shipped=SHIPPED)
    take_data_of_checkpoint(cfg, "lesions", pipeline.protocol, checkpoint)
    source = instantiate(cfg.dataset.source)
    chests = with_lesions(source, cfg.cases, cfg.places)
    other = cfg.regression_checkpoint
    compared = {} if other is None else {"regression": open_generator(other, cfg.device, cfg.sampler)}
    data = prepared_data(source, cfg.dataset) if cfg.ridge else None
    lesions, protocol = split_cases(chests, cfg.dataset, "test", pipeline.protocol)
    for file, generator in {checkpoint: pipeline, **{path: other for other, path in compared.values()}}.items():
        check_protocol(protocol, generator.protocol)
        ids = lesions.rows.assign(id=lesions.rows["patient"])
        check_patient_leakage(ids, generator.protocol, protocol, f"checkpoint={file}", "give another checkpoint")
    output = result_folder(cfg.output, "lesions", RESULTS, cfg.overwrite)
    baselines = None if data is None else Baselines(data.train, data.val, pipeline.window)
    cases = LesionCases(chests, lesions, pipeline.window)
    scores = score_lesions(
        pipeline, cases, sampling, baselines, {name: other for name, (other, _) in compared.items()}
    )
    run = describe_run(pipeline, checkpoint, sampling) | {
        "regression": cfg.regression_checkpoint,
        "ridge": baselines and baselines.describe(),
        "dataset": protocol["dataset"],
        "patients": int(lesions.rows["patient"].nunique()),
        "chests": len(cases.subjects),
        "machine": machine(),
    }
    print(write_lesions(output, scores, summarise(scores), run))


if __name__ == "__main__":
    main()
