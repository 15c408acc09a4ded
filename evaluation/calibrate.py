"""Calibrates prediction intervals of a generator and writes them with their test coverage beside its checkpoint.

`python evaluation/calibrate.py checkpoint=<path> dataset=phantom samples=20`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("calibrate")
def main(cfg) -> None:
    from hydra.utils import instantiate

    from common.errors import UserError
    from common.files import check_output, result_folder
    from dataset.datamodule import prepared_data
    from evaluation.calibration.calibrate_intervals import calibrate, check_settings
    from evaluation.calibration.cases import FirstCases, calibration_source
    from evaluation.calibration.report import RESULTS, markdown, write_calibration
    from evaluation.generation.open_pipeline import open_generator
    from evaluation.generation.sample import Sampling
    from evaluation.intervals.prediction_intervals import calibration_path
    from evaluation.protocol.checkpoint_data import take_data_of_checkpoint
    from evaluation.protocol.data_checks import check_protocol, own_split
    from evaluation.protocol.leakage import check_patient_leakage

    check_settings(cfg.samples, cfg.level, cfg.share)  # before the checkpoint is loaded
    check_output(cfg.output, RESULTS, cfg.overwrite)
    sampling, split = Sampling(cfg.samples, cfg.seed, cfg.batch_size), cfg.calibration_split
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler)
    bounds = Path(cfg.bounds or calibration_path(checkpoint))
    if bounds.exists() and not cfg.overwrite:
        raise UserError(f"{bounds}: an earlier calibration; overwrite=true replaces it, bounds=<file> keeps both")
    take_data_of_checkpoint(cfg, "calibrate", pipeline.protocol, checkpoint)
    data = cfg.dataset
    source = calibration_source(data.source, split, cfg.calibration_cases, cfg.calibration_from)
    testing = prepared_data(instantiate(data.source), data)
    calibrating = testing if source is None else prepared_data(instantiate(source), data)
    split = split or "test"
    calibration = own_split(calibrating, split)
    test = FirstCases(own_split(testing, "test"), cfg.cases)
    for cases, module in ((calibration, calibrating), (test, testing)):
        check_protocol(module.protocol(), pipeline.protocol)
        remedy = "give cases that it was not trained on, or another checkpoint"
        check_patient_leakage(cases.rows, pipeline.protocol, module.protocol(), f"checkpoint={checkpoint}", remedy)
    population = {key: calibrating.protocol()[key] for key in ("dataset", "version")} | {"split": split}
    intervals, scores = calibrate(
        pipeline, calibration, test, testing.train, checkpoint, sampling, cfg.level, cfg.share, population
    )
    output = result_folder(cfg.output, "calibrate", RESULTS, cfg.overwrite)
    path = write_calibration(intervals, scores, output, bounds)
    print(markdown(intervals))
    print(path)


if __name__ == "__main__":
    main()
