"""Scores predicted CT files of any method against the true ones, by the protocol of evaluation/evaluate.py.

`python evaluation/score.py truth=<folder> prediction=<folder> window=wide`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("score")
def main(cfg) -> None:
    from common.errors import user_errors
    from dataset.imaging.hu_window import Window
    from evaluation.scoring.nifti_pairs import match
    from evaluation.scoring.score_files import score_files

    pairs = match(cfg.truth, cfg.prediction, cfg.suffix)
    with user_errors():
        result = score_files(
            pairs,
            Window.parse(cfg.window),
            Path(cfg.output),
            metrics=cfg.metrics if isinstance(cfg.metrics, str) else tuple(cfg.metrics),
            **{name: cfg[name] for name in ("method", "samples", "patients", "split", "seed")},
        )
    for name, estimate in result["methods"][cfg.method].items():
        shown = result["protocol"]["not_measured"].get(name) if estimate is None else estimate["mean"]
        print(f"{name}: {shown}")
    print(Path(cfg.output) / "metrics.json")


if __name__ == "__main__":
    main()
