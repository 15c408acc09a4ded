"""Draws test cases and films of a checkpoint for the README: X-ray, generated CT, and the true CT where it is known.

`python evaluation/figures.py checkpoint=<path>` writes `case_<n>.gif`, `cases.png` and `overview.png`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402
from common.errors import UserError  # noqa: E402
from common.files import check_output, result_folder, visible  # noqa: E402
from evaluation.generation.model_inputs import ModelInputs  # noqa: E402
from evaluation.generation.sample import Sampling, sample_volumes  # noqa: E402
from evaluation.generation.xray_inputs import read_inputs  # noqa: E402
from evaluation.protocol.comparability import estimator  # noqa: E402
from evaluation.visualization import sheets  # noqa: E402
from evaluation.visualization import slices as pictures  # noqa: E402

FIGURES = "case_*.gif", "cases.png", "overview.png"


@command("figures")
def main(cfg) -> None:
    import matplotlib
    from hydra.utils import instantiate

    from dataset.datamodule import split_cases
    from evaluation.generation.open_pipeline import open_generator
    from evaluation.protocol.checkpoint_data import take_data_of_checkpoint
    from evaluation.protocol.data_checks import check_protocol
    from evaluation.protocol.leakage import check_patient_leakage

    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    check_output(cfg.output, FIGURES, cfg.overwrite)
    if cfg.split not in ("val", "test"):
        raise UserError(f"split={cfg.split}: choose test or val; the generator was trained on the training cases")
    sampling = Sampling(cfg.samples, cfg.seed, cfg.batch_size)
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler)
    take_data_of_checkpoint(cfg, "figures", pipeline.protocol, checkpoint)
    cases, protocol = split_cases(instantiate(cfg.dataset.source), cfg.dataset, cfg.split, pipeline.protocol)
    check_protocol(protocol, pipeline.protocol)
    remedy = "give cases that it was not trained on, or another checkpoint"
    check_patient_leakage(cases.rows, pipeline.protocol, protocol, f"checkpoint={checkpoint}", remedy)
    output = result_folder(cfg.output, "figures", FIGURES, cfg.overwrite)
    films = film_rows(pipeline, Path(cfg.films), sampling) if cfg.films else []
    for path in write_case_figures(pipeline, cases, output, cfg.cases, sampling, films):
        print(path)


def film_rows(pipeline, folder: Path, sampling: Sampling) -> list[sheets.CasePicture]:
    """Generated volumes of the films of a folder, without truth; each title is the name of its file."""
    files = sorted(visible(folder.glob("*.png")))
    if not files:
        raise UserError(f"films={folder}: no PNG files; give a folder of films")
    inputs = read_inputs(files, pipeline)
    extents = [tuple(given.extent) for given in inputs]
    batches = sample_volumes(pipeline, ModelInputs.of_inputs(inputs), [file.name for file in files], sampling)
    means = [volume.mean(dim=0) for _, batch in batches for volume in batch]
    rows = zip(files, inputs, means, extents, strict=True)
    return [
        sheets.CasePicture(
            f"film {file.stem}: {estimator(sampling.samples)}",
            given.original if given.original is not None else given.xray[0],
            None,
            volume,
            tuple(mm / n for mm, n in zip(extent, volume.shape, strict=True)),
        )
        for file, given, volume, extent in rows
    ]


def write_case_figures(
    pipeline, cases, output: Path, count: int, sampling: Sampling, films: list[sheets.CasePicture] = ()
) -> list[Path]:
    """Writes `case_<n>.gif`, `cases.png` and `overview.png` of the first `count` cases and returns their paths.

    Several samples are drawn as their mean. `films` are further rows of the overview. UserError if the split has fewer
    cases.
    """
    if not 1 <= count <= len(cases):
        raise UserError(f"cases={count}: give 1 to {len(cases)}, the number of cases in the split")
    output.mkdir(parents=True, exist_ok=True)
    chosen = [cases.case(index) for index in range(count)]
    ids = [str(name) for name in cases.rows["id"].iloc[:count]]
    batches = sample_volumes(pipeline, ModelInputs.of_cases(chosen, pipeline), ids, sampling)
    means = [volume.mean(dim=0) for _, batch in batches for volume in batch]
    grey, rows = pictures.display_window(pipeline.window), []
    paths = [output / f"case_{number}.gif" for number in range(1, count + 1)] + [
        output / "cases.png",
        output / "overview.png",
    ]
    for path, case, volume in zip(paths[:-2], chosen, means, strict=True):
        spacing, xray = tuple(case["spacing"].tolist()), case["xray"][0].float()
        sheets.save_gif(path, sheets.case_frames(xray, case["ct"], volume, spacing, grey))
        title = f"case {len(rows) + 1}, {ids[len(rows)]}: {estimator(sampling.samples)}"
        rows.append(sheets.CasePicture(title, xray, case["ct"].float(), volume, spacing))
    sheets.case_sheet(rows, pipeline.window).save(paths[-2])
    sheets.overview_sheet([*rows, *films], grey).save(paths[-1])
    return paths


if __name__ == "__main__":
    main()
