"""Tests whether a generator repeats training cases: its volumes against true volumes of unseen patients.

`python evaluation/memorisation.py checkpoint=<path>`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("memorisation")
def main(cfg) -> None:
    from hydra.utils import instantiate

    from common.environment import machine
    from common.errors import UserError
    from common.files import check_output, result_folder
    from dataset.datamodule import prepared_data
    from evaluation.authenticity.memorisation import authenticity, measure_ratios
    from evaluation.authenticity.report import RESULTS, write_memorisation
    from evaluation.calibration.cases import FirstCases
    from evaluation.generation.metadata import describe_run
    from evaluation.generation.open_pipeline import SHIPPED, open_generator
    from evaluation.generation.sample import Sampling
    from evaluation.protocol.checkpoint_data import take_data_of_checkpoint
    from evaluation.protocol.data_checks import check_protocol, own_split
    from evaluation.protocol.leakage import check_patient_leakage

    if cfg.split not in ("test", "val"):
        raise UserError(f"split={cfg.split}: choose test or val, patients that the generator was not trained on")
    check_output(cfg.output, RESULTS, cfg.overwrite)
    sampling = Sampling(1, cfg.seed, cfg.batch_size)
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler, shipped=SHIPPED)
    take_data_of_checkpoint(cfg, "memorisation", pipeline.protocol, checkpoint)
    data = prepared_data(instantiate(cfg.dataset.source), cfg.dataset)
    check_protocol(data.protocol(), pipeline.protocol)
    unseen = FirstCases(own_split(data, cfg.split), cfg.cases, one_per_patient=True)
    remedy = "give cases that it was not trained on, or another checkpoint"
    check_patient_leakage(unseen.rows, pipeline.protocol, data.protocol(), f"checkpoint={checkpoint}", remedy)
    output = result_folder(cfg.output, "memorisation", RESULTS, cfg.overwrite)
    ratios = measure_ratios(pipeline, data.train, unseen, sampling)
    run = describe_run(pipeline, checkpoint, sampling) | {
        "dataset": data.protocol()["dataset"],
        "split": cfg.split,
        "training_cases": len(data.train),
        "machine": machine(),
    }
    print(write_memorisation(output, ratios, authenticity(ratios, cfg.seed), run))


if __name__ == "__main__":
    main()
