"""Scores predicted CT files of any method against the true ones, by the protocol of evaluation/evaluate.py.

`python evaluation/score.py truth=<folder> prediction=<folder> window=wide`, or by a frozen benchmark
`python evaluation/score.py protocol=chests predictions=<folder>`, or by that of X2CT-GAN's papers
`python evaluation/score.py protocol=x2ct truth=<folder of dataset=x2ct> predictions=<folder>`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("score")
def main(cfg) -> None:
    from common.errors import user_errors
    from common.files import check_output, result_folder
    from dataset.imaging.hu_window import Window
    from evaluation.scoring.frozen_protocol import read_protocol
    from evaluation.scoring.nifti_pairs import match
    from evaluation.scoring.score_files import score_files
    from evaluation.scoring.score_protocol import score_protocol, score_x2ct

    earlier = "metrics.json", "cases.csv", "table.*"
    check_output(cfg.output, earlier, cfg.overwrite)
    common = {name: cfg[name] for name in ("method", "samples", "seed")}
    with user_errors():
        if cfg.protocol == "x2ct":
            scored = score_x2ct(cfg.truth, cfg.predictions, **common)
        elif cfg.protocol is not None:
            scored = score_protocol(read_protocol(cfg.protocol), cfg.predictions, stage=cfg.stage, **common)
        else:
            scored = score_files(
                match(cfg.truth, cfg.prediction, cfg.suffix),
                Window.parse(cfg.window),
                metrics=cfg.metrics if isinstance(cfg.metrics, str) else tuple(cfg.metrics),
                patients=cfg.patients,
                split=cfg.split,
                **common,
            )
    output = result_folder(cfg.output, "score", earlier, cfg.overwrite)  # after all files are read
    result = scored.write(output)
    if scored.by_patient is not None:
        print((output / "table.md").read_text())
    for name, estimate in result["methods"][cfg.method].items():
        shown = result["protocol"]["not_measured"].get(name) if estimate is None else estimate["mean"]
        print(f"{name}: {shown}")
    print(output / "metrics.json")


if __name__ == "__main__":
    main()
