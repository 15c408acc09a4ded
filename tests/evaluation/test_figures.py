"""Pictures of cases for the README."""

import pytest
from evaluation_fakes import FakePipeline, chest_world, oracle, protocol
from PIL import Image

from common.errors import UserError
from evaluation.figures import write_case_figures
from evaluation.generation.sample import Sampling
from evaluation.visualization.sheets import CasePicture


def test_case_figures_of_the_first_cases(tmp_path):
    cases = chest_world(3, 1)
    paths = write_case_figures(FakePipeline(oracle(cases), protocol()), cases, tmp_path, 2, Sampling(2))
    assert [path.name for path in paths] == ["case_1.gif", "case_2.gif", "cases.png", "overview.png"]
    height_of_two = Image.open(paths[3]).height
    with Image.open(paths[0]) as gif:
        assert gif.n_frames == 24
    assert Image.open(paths[2]).width > 1500
    case = cases.case(0)
    film = CasePicture("film", case["xray"][0].float(), None, case["ct"].float(), tuple(case["spacing"].tolist()))
    more = write_case_figures(FakePipeline(oracle(cases), protocol()), cases, tmp_path, 2, Sampling(2), [film])
    assert Image.open(more[3]).height > 1.3 * height_of_two
    with pytest.raises(UserError, match="cases=4: give 1 to 3"):
        write_case_figures(FakePipeline(oracle(cases), protocol()), cases, tmp_path, 4, Sampling())
