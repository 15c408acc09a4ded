"""Measures lungs on real films with human lung masks: those of the generated volume, and those found in the film.

`python evaluation/films.py films=<folder> output=<folder>` pairs `<name>.png` with `<name>_lungs.png`.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("films")
def main(cfg) -> None:
    from common.files import check_output, result_folder
    from evaluation.generation.open_pipeline import SHIPPED, open_generator
    from evaluation.generation.sample import Sampling
    from evaluation.generation.xray_inputs import read_inputs
    from evaluation.scoring.film_lungs import find_films, score_films

    earlier = "films.*", "metrics.json"
    check_output(cfg.output, earlier, cfg.overwrite)
    sampling, films = Sampling(cfg.samples, cfg.seed, cfg.batch_size), find_films(cfg.films)
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler, shipped=SHIPPED)
    options = cfg.align, cfg.view, cfg.allow_any_picture, cfg.lung_guide
    inputs = read_inputs([film.path for film in films], pipeline, *options)
    output = result_folder(cfg.output, "films", earlier, cfg.overwrite)
    print(score_films(pipeline, films, inputs, output, sampling, checkpoint))


if __name__ == "__main__":
    main()
