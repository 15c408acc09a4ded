"""A NaN in one batch stops the run and names the cases, or the batch is skipped by config and counted."""

import pytest
from fault_runs import differing, stages, weights


@stages("vqgan")
def test_the_cases_are_named_and_the_checkpoint_is_untouched(training, request):
    line = training.start(nan_at_step={"steps": [6]}).refusal()
    assert "batch 6" in line and line.count("phantom_0000000") == 2 and "model.skip_nonfinite" in line
    assert all(tensor.isfinite().all() for tensor in weights(training.last).values())
    training.resume().fine()  # with valid data
    assert differing(training.weights(), request.getfixturevalue(f"whole_{training.stage}").weights()) == []


@stages()
def test_skipped_and_counted(training, request):
    options = ("model.skip_nonfinite=true",)
    said = training.start(*options, nan_at_step={"steps": [6, 9]}).fine()
    assert "2 batches skipped" in said and "batch 6 (cases phantom_" in said and "batch 9 (cases phantom_" in said
    ours, whole = training.weights(), request.getfixturevalue(f"whole_{training.stage}").weights()
    assert all(tensor.isfinite().all() for tensor in ours.values())
    assert differing(ours, whole)  # the batches were skipped
    training.forget()
    again = training.start(*options, nan_at_step={"steps": [6, 9]}, kill_in_checkpoint={"moment": "after_rename",
                                                                                       "count": 4})  # fmt: skip
    assert again.wait() == -9
    assert "2 batches skipped" in training.resume(*options, nan_at_step={"steps": [9]}).fine()  # also those before
    assert differing(training.weights(), ours) == []


@pytest.mark.faults
@pytest.mark.parametrize("training", ["ddpm"], indirect=True)
def test_a_diverged_network_stops_the_run(training):
    line = training.start("model.skip_nonfinite=true", nan_at_step={"steps": list(range(6, 40))}).refusal()
    assert "as in the 10 batches before it" in line
