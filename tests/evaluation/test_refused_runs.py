"""A run that is refused keeps the results of an earlier run and moves no `latest`."""

import numpy as np
import pytest
from forked_command import run_command
from PIL import Image

from common.errors import UserError
from evaluation.generation.open_pipeline import PHANTOM_WEIGHTS

pytestmark = pytest.mark.slow


def refuse_inputs():
    """Every evaluation refuses its cases, as it does for patients of the training."""
    from evaluation.scoring.evaluator import Evaluator

    def refuse(self):
        raise UserError("a patient of the training")

    Evaluator.read_inputs = refuse


@pytest.fixture
def files(tmp_path):
    """An X-ray that shows no chest with a mask, and two inputs of a comparison that cannot be read."""
    for name in ("xray", "films"):
        (tmp_path / name).mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for path, array in (("xray/x.png", noise), ("films/x.png", noise), ("films/x_lungs.png", noise * 0 + 255)):
        Image.fromarray(array).save(tmp_path / path)
    return tmp_path


COMMANDS = {
    "score": (["truth=xray", "prediction=films"], "truth=xray: no volume file", None),
    "generate": (["xray=xray", "checkpoint=shipped"], "not look like a frontal chest", None),
    "films": (["films=films", "checkpoint=shipped"], "not look like a frontal chest", None),
    "evaluate": (
        ["dataset.train=1", "dataset.val=1", "dataset.test=1", f"checkpoint={PHANTOM_WEIGHTS}"],
        "a patient of the training",
        refuse_inputs,
    ),
}


@pytest.mark.frontal_check
@pytest.mark.parametrize("name", COMMANDS)
def test_a_refused_run_keeps_earlier_results(name, files):
    options, line, before = COMMANDS[name]
    earlier = [files / "out" / file for file in ("metrics.json", "films.csv", "x_settings.json")]
    for file in earlier:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    done = run_command(f"evaluation/{name}.py", *options, "output=out", "overwrite=true", cwd=files, before=before)
    assert done.returncode == 1 and line in done.stderr and all(file.is_file() for file in earlier)
    done = run_command(f"evaluation/{name}.py", *options, cwd=files, before=before)
    assert done.returncode == 1 and line in done.stderr and not (files / "outputs" / name).exists()
    done = run_command(f"evaluation/{name}.py", *options, "output=out", cwd=files, before=before)
    assert done.returncode == 1 and "of an earlier run; give another folder" in done.stderr


def test_a_comparison_keeps_its_inputs(files):
    (files / "metrics.json").write_text("{}")
    given = ["a=metrics.json", "b=none.json", "output=metrics.json", "overwrite=true"]
    assert "no protocol and methods" in run_command("evaluation/compare.py", *given, cwd=files).stderr
    assert (files / "metrics.json").read_text() == "{}"
    (files / "metrics.json").write_text('{"protocol": {}, "methods": {}}')
    (files / "cases.csv").write_text("id,patient,method\n")
    given = ["a=.", "b=metrics.json", "overwrite=true"]
    for output, line in (("metrics.json", "an input"), ("cases.csv", "an input"), ("films", "a folder")):
        refused = run_command("evaluation/compare.py", *given, f"output={output}", cwd=files)
        assert f"output={output}: {line}; name another file" in refused.stderr
    assert (files / "cases.csv").is_file() and (files / "films" / "x.png").is_file()
