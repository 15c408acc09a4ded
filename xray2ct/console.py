"""Console scripts: each runs a command of the project from any folder, with its outputs where the user stands."""

import runpy
import sys
from collections.abc import Callable

from xray2ct.rooms import ROOMS, ROOT, foreign, library_message


def _command(script: str) -> Callable[[], None]:
    def run() -> None:
        sys.path.insert(0, str(ROOT))  # before a `dataset.py` of the user, for instance on PYTHONPATH
        for room in ROOMS:
            if (file := foreign(room)) is not None:
                sys.exit(f"error: {file or room}: already loaded as `{room}`, a name that xray2ct needs; rename it")
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except RuntimeError as error:
            if (line := library_message(error)) is None:
                raise
            sys.exit(f"error: {line}")

    return run


prepare = _command("dataset/prepare.py")
public = _command("dataset/public.py")
train_vqgan = _command("train/train_vqgan.py")
encode_latents = _command("train/encode_latents.py")
train_ddpm = _command("train/train_ddpm.py")
fit_parts = _command("train/fit_parts.py")
distill = _command("train/distill.py")
train_lung_network = _command("train/train_lung_network.py")
train_classifier = _command("train/train_classifier.py")
generate = _command("evaluation/generate.py")
evaluate = _command("evaluation/evaluate.py")
score = _command("evaluation/score.py")
films = _command("evaluation/films.py")
pairs = _command("evaluation/pairs.py")
lesions = _command("evaluation/lesions.py")
memorisation = _command("evaluation/memorisation.py")
compare = _command("evaluation/compare.py")
calibrate = _command("evaluation/calibrate.py")
classification = _command("evaluation/classification.py")
reader_study = _command("evaluation/reader_study.py")
report = _command("evaluation/report.py")
export = _command("evaluation/export.py")
demo = _command("demo/app.py")
