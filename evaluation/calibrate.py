"""Calibrates the error bars of a generator: bounds beside its checkpoint, their coverage on test cases, a picture.

`python evaluation/calibrate.py checkpoint=<path> dataset=phantom samples=20`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("calibrate")
def main(cfg) -> None:
    from hydra.utils import instantiate

    from dataset.datamodule import prepared_data
    from evaluation.calibration import calibrate_intervals as coverage
    from evaluation.calibration.cases import Limited, calibration_source
    from evaluation.calibration.report import markdown, write_calibration
    from evaluation.generation.open_pipeline import open_generator
    from evaluation.intervals.prediction_intervals import beside
    from evaluation.protocol.data_checks import check_protocol, own_split
    from evaluation.protocol.leakage import refuse_seen

    coverage.check_settings(cfg.samples, cfg.level, cfg.share)
    data = cfg.dataset
    apart = calibration_source(data.source, cfg.calibration_split, cfg.calibration_cases, cfg.calibration_from)
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler)
    testing = prepared_data(instantiate(data.source), data)
    calibrating = testing if apart is None else prepared_data(instantiate(apart), data)
    calibration = Limited(own_split(calibrating, cfg.calibration_split or "test"), None)
    test = Limited(own_split(testing, "test"), cfg.cases)
    for cases, held in ((calibration, calibrating), (test, testing)):
        check_protocol(held.protocol(), pipeline.protocol)
        remedy = "give cases that it was not trained on, or another checkpoint"
        refuse_seen(cases.rows, pipeline.protocol, held.protocol(), f"checkpoint={checkpoint}", remedy)
    said = calibrating.protocol()
    bounds, scores = coverage.calibrate(
        pipeline,
        calibration,
        test,
        testing.train,
        checkpoint,
        samples=cfg.samples,
        level=cfg.level,
        share=cfg.share,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        population={"dataset": said["dataset"], "version": said["version"], "split": cfg.calibration_split or "test"},
    )
    path = write_calibration(bounds, scores, Path(cfg.output), Path(cfg.bounds or beside(checkpoint)))
    print(markdown(bounds))
    print(path)


if __name__ == "__main__":
    main()
