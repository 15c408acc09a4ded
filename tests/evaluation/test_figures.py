"""Pictures for the README: files, columns, and the mark of generated volumes."""

import numpy as np
import pytest
from evaluation_fakes import FakePipeline, chest_world, oracle, protocol
from PIL import Image

from common.errors import UserError
from evaluation.figures import write_case_figures
from evaluation.generation.sample import Sampling
from evaluation.visualization import sheets


def test_case_figures_of_the_first_cases(tmp_path):
    cases = chest_world(3, 1)
    paths = write_case_figures(FakePipeline(oracle(cases), protocol()), cases, tmp_path, 2, Sampling(2))
    assert [path.name for path in paths] == ["case_1.gif", "case_2.gif", "cases.png"]
    with Image.open(paths[0]) as gif:
        assert gif.n_frames == 24
    assert Image.open(paths[-1]).width > 1500
    with pytest.raises(UserError, match="cases=4: give 1 to 3"):
        write_case_figures(FakePipeline(oracle(cases), protocol()), cases, tmp_path, 4, Sampling())


def test_frames_show_xray_truth_and_marked_generation():
    case = chest_world(1, 0).case(0)
    truth, spacing = case["ct"].float(), tuple(case["spacing"].tolist())
    frames = sheets.case_frames(case["xray"][0].float(), truth, truth.clone(), spacing)
    assert len(frames) == truth.shape[1]
    middle = np.asarray(frames[12]).astype(int)
    third = middle.shape[1] // 3
    # the mark is yellow (more red than blue) and below the generated volume only
    yellow = (middle[..., 0] - middle[..., 2]) > 100
    assert yellow[:, 2 * third :].sum() > 30 and yellow[:, : 2 * third].sum() == 0
