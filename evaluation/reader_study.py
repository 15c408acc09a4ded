"""Creates a blinded reader study from a generator or from volumes, and analyses the readers' answers.

`python evaluation/reader_study.py action=create study=<folder> checkpoint=<path> dataset=<name>`
`python evaluation/reader_study.py action=analyse study=<folder>`

`evaluation/readers/study_folder.py` describes the study folder.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402
from common.errors import UserError  # noqa: E402


@command("reader_study")
def main(cfg) -> None:
    if cfg.action not in ("create", "analyse"):
        raise UserError(f"action={cfg.action}: choose create or analyse")
    create(cfg) if cfg.action == "create" else analyse(cfg)


def create(cfg) -> None:
    import secrets

    from omegaconf import OmegaConf

    from dataset.imaging.hu_window import Window
    from evaluation.readers.arms import read_table
    from evaluation.readers.create import forecast, make_study
    from evaluation.readers.design import StudyDesign
    from evaluation.readers.questions import parse_questions

    questions = parse_questions(OmegaConf.to_container(cfg.questions, resolve=True))
    if cfg.volumes is not None:
        rows, volume_of = read_table(cfg.volumes)
        window, origin = Window.parse(cfg.window), {"volumes": str(cfg.volumes)}
    else:
        rows, volume_of, window, origin = generator_arms(cfg, secrets.randbits(31) if cfg.seed is None else cfg.seed)
    design = StudyDesign(cfg.readers, cfg.cases_per_arm, cfg.assignment, cfg.repeat_share, cfg.spacing, cfg.crop)
    about = make_study(
        rows, volume_of, window, Path(cfg.study), questions, design, cfg.seed, cfg.key, cfg.title, origin
    )
    for line in forecast(about):
        print(line)
    print(f"{about['key']}: the key, sealed by its hash in study.json; keep it from readers")
    print(Path(cfg.study) / "study.json")


def generator_arms(cfg, noise: int) -> tuple:
    """Cases of the data set and a function that computes their three arms with a checkpoint."""
    from hydra.utils import instantiate

    from common.files import sha256
    from dataset.datamodule import split_cases
    from evaluation.generation.open_pipeline import open_generator
    from evaluation.protocol.checkpoint_data import take_data_of_checkpoint
    from evaluation.protocol.data_checks import check_protocol
    from evaluation.protocol.leakage import check_patient_leakage
    from evaluation.readers.arms import arm_maker

    if cfg.split not in ("val", "test"):
        raise UserError(f"split={cfg.split}: choose test or val; the generator was trained on the training cases")
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler)
    take_data_of_checkpoint(cfg, "reader_study", pipeline.protocol, checkpoint)
    cases, protocol = split_cases(instantiate(cfg.dataset.source), cfg.dataset, cfg.split, pipeline.protocol)
    check_protocol(protocol, pipeline.protocol)
    remedy = "give cases that it was not trained on, or another checkpoint"
    seen = check_patient_leakage(cases.rows, pipeline.protocol, protocol, f"checkpoint={checkpoint}", remedy)
    origin = {"checkpoint": {"file": str(checkpoint), "sha256": sha256(checkpoint)}, **pipeline.describe()}
    origin |= {"noise_seed": noise, "split": cfg.split, "seen_patients": seen, "data": protocol}
    return cases.rows, arm_maker(pipeline, cases, noise), pipeline.window, origin


def analyse(cfg) -> None:
    from common.files import check_output, result_folder
    from evaluation.readers import analysis
    from evaluation.readers.report import RESULTS, write_analysis
    from evaluation.readers.study_folder import read_answers, read_key, read_study

    if cfg.draws < 100:
        raise UserError(f"draws={cfg.draws}: give at least 100, fewer give no reliable interval")
    check_output(cfg.output, RESULTS, cfg.overwrite)
    study = read_study(cfg.study)
    items, answers = read_key(study, cfg.key), read_answers(study)
    result = analysis.analyse(answers, items, study.questions, study.first_readings, cfg.seed or 0, cfg.draws)
    path = write_analysis(result_folder(cfg.output, "reader_study_analysis", RESULTS, cfg.overwrite), result)
    for warning in result["warnings"]:
        print(f"warning: {warning}")
    print(result["statement"])
    print(path)


if __name__ == "__main__":
    main()
