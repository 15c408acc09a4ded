"""Names of the files of an evaluation: one for each case."""

import pytest
from evaluation_fakes import FakePipeline, chest_data, oracle

from common.errors import UserError
from evaluation.generation.sample import Sampling
from evaluation.scoring.evaluation_pictures import check_file_names, file_name
from evaluation.scoring.evaluator import EvaluationSettings, Evaluator


def test_an_evaluation_refuses_two_ids_of_one_file_name_before_it_generates():
    data = chest_data(2, 2, 2)
    data.test.rows["id"] = ["a/1", "a_1"]
    pipeline = FakePipeline(oracle(data.test), data.protocol())
    evaluator = Evaluator(data, pipeline, Sampling(1), EvaluationSettings(methods=("model",)))
    with pytest.raises(UserError, match="the files of a/1 and a_1 would have one name, a_1"):
        evaluator.read_inputs()
    assert pipeline.calls == 0


def test_other_ids_keep_their_names():
    ids = ["a-1.b", "ü 2", "a_1"]
    check_file_names([*ids, "a_1"])  # a repeated id is refused elsewhere
    assert [file_name(name) for name in ids] == ["a-1.b", "ü_2", "a_1"]
