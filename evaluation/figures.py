"""Draws the pictures of the README into `assets/`.

`python evaluation/figures.py` draws the pipeline; with `checkpoint=<path> dataset=<name>` also some test cases: X-ray,
true CT and generated CT side by side, as GIFs that run through the slices and as one sheet.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # replaced, so that a file here shadows no library

import torch  # noqa: E402

from common.cli import command  # noqa: E402
from common.errors import UserError  # noqa: E402
from dataset.imaging.geometry import extent_mm  # noqa: E402
from evaluation.generation.sample import sample_volumes  # noqa: E402
from evaluation.generation.xray_inputs import told_extents  # noqa: E402
from evaluation.visualization import sheets  # noqa: E402
from evaluation.visualization import slices as pictures  # noqa: E402


@command("figures")
def main(cfg) -> None:
    import matplotlib

    from evaluation.pipeline_figure import pipeline_figure

    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    output = Path(cfg.output) if cfg.output else ROOT / "assets"
    output.mkdir(parents=True, exist_ok=True)
    pipeline_figure().savefig(output / "pipeline.png", dpi=120)
    print(output / "pipeline.png")
    if cfg.checkpoint is not None:
        draw_cases(cfg, output)


def draw_cases(cfg, output: Path) -> None:
    from hydra.utils import instantiate

    from dataset.datamodule import prepared_data
    from evaluation.generation.open_pipeline import open_generator
    from evaluation.protocol.data_checks import check_protocol

    if cfg.split not in ("val", "test"):
        raise UserError(f"split={cfg.split}: choose test or val; the generator has seen its training cases")
    pipeline, _ = open_generator(cfg.checkpoint, cfg.device, cfg.sampler)
    data = cfg.dataset
    datamodule = prepared_data(instantiate(data.source), data)
    check_protocol(datamodule.protocol(), pipeline.protocol)
    cases = getattr(datamodule, cfg.split)
    for path in write_case_figures(pipeline, cases, output, cfg.cases, cfg.samples, cfg.seed, cfg.batch_size):
        print(path)


def write_case_figures(
    pipeline, cases, output: Path, count: int = 3, samples: int = 4, seed: int = 0, batch_size: int = 4
) -> list[Path]:
    """Writes `case_<n>.gif` for the first `count` cases, and `cases.png`; gives back their paths.

    The first cases, whatever they look like: chosen ones would show what the model rarely does. Several samples are
    shown as their mean.

    Raises:
        UserError: no case, or fewer than asked for.
    """
    if not 1 <= count <= len(cases):
        raise UserError(f"cases={count}: give 1 to {len(cases)}, as many as the split holds")
    seen = [cases.case(index) for index in range(count)]
    ids = [str(name) for name in cases.rows["id"].iloc[:count]]
    xrays = torch.stack([case["xray"].float().unsqueeze(1) for case in seen])
    poses = torch.stack([case["pose"] for case in seen])
    extents = torch.tensor([extent_mm(case["ct"].shape, case["spacing"].tolist()) for case in seen])
    extents = told_extents(poses, extents, pipeline)
    drawn = sample_volumes(pipeline, xrays, poses, ids, samples, batch_size, seed, extents)
    volumes = [volume.mean(dim=0) for _, batch in drawn for volume in batch]
    grey, written, rows = pictures.display_window(pipeline.window), [], []
    for number, (case, volume) in enumerate(zip(seen, volumes, strict=True), start=1):
        spacing, xray = tuple(case["spacing"].tolist()), case["xray"][0].float()
        path = output / f"case_{number}.gif"
        sheets.save_gif(path, sheets.case_frames(xray, case["ct"], volume, spacing, grey))
        written.append(path)
        title = f"case {number}: {'mean of ' + str(samples) + ' samples' if samples > 1 else 'one sample'}"
        rows.append(sheets.CasePicture(title, xray, case["ct"].float(), volume, spacing))
    sheets.case_sheet(rows, grey).save(output / "cases.png")
    return [*written, output / "cases.png"]


if __name__ == "__main__":
    main()
