"""Two runs in one folder: the second is refused, also where the first was killed and left its lock."""

import pytest
from fault_runs import differing, stages
from test_killed_preparation import prepare, tree  # noqa: F401 (fixtures)


@stages("vqgan")
def test_the_second_is_refused_and_the_first_goes_on(training, request):
    first = training.start(slow_batches={"seconds": 0.3})
    training.until_saved(first, 1)
    line = training.resume().refusal()
    assert f"process {first.pid} is writing here" in line and "model.results_folder" in line
    first.fine()
    assert differing(training.weights(), request.getfixturevalue(f"whole_{training.stage}").weights()) == []


@stages()
def test_a_killed_run_leaves_no_lock(training):
    first = training.start(slow_batches={"seconds": 0.3})
    training.until_saved(first, 1)
    assert first.killed_after(0.0)
    training.resume().fine()


@pytest.mark.faults
def test_two_preparations_of_one_folder(prepare, tmp_path):  # noqa: F811
    first = prepare(tmp_path, slow_files={"seconds": 0.5})
    first.until(lambda: (tmp_path / "set" / "candidates.csv").exists())
    assert f"process {first.pid} is writing here" in prepare(tmp_path).refusal()
    first.fine()
    prepare(tmp_path).fine()
