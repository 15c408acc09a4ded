"""Draws the pictures of the README into `assets/`.

`python evaluation/figures.py` draws the pipeline; with `checkpoint=<path> dataset=<name>` also some test cases: X-ray,
true CT and generated CT side by side, as GIFs that run through the slices and as one sheet.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # replaced, so that a file here shadows no library

from dataset.command import command  # noqa: E402


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
    from dataset.errors import UserError
    from evaluation.case_figures import write_case_figures
    from evaluation.judge import check_protocol
    from evaluation.sampling import open_generator

    if cfg.split not in ("val", "test"):
        raise UserError(f"split={cfg.split}: choose test or val; the generator has seen its training cases")
    pipeline, _ = open_generator(cfg.checkpoint, cfg.device, cfg.sampler)
    data = cfg.dataset
    datamodule = prepared_data(instantiate(data.source), data)
    check_protocol(datamodule.protocol(), pipeline.protocol)
    cases = getattr(datamodule, cfg.split)
    for path in write_case_figures(pipeline, cases, output, cfg.cases, cfg.samples, cfg.seed, cfg.batch_size):
        print(path)


if __name__ == "__main__":
    main()
