"""A wandb server that cannot be reached: training goes on, and its curves are kept here."""

import pytest
from fault_runs import differing

NOBODY = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_SILENT": "true"}


@pytest.mark.faults
@pytest.mark.parametrize("training", ["vqgan"], indirect=True)
def test_training_goes_on_without_the_server(training, request):
    said = training.start("logger=wandb", "logger.offline=false", env=NOBODY).fine()
    assert "wandb" in said and "offline" in said
    assert list(training.place.glob("runs/*/curves_1/metrics.csv"))
    assert differing(training.weights(), request.getfixturevalue("whole_vqgan").weights()) == []


@pytest.mark.faults
@pytest.mark.parametrize("training", ["ddpm"], indirect=True)
def test_of_the_second_stage(training, request):
    said = training.start("logger=wandb", "logger.offline=false", env=NOBODY).fine()
    assert "offline" in said
    assert differing(training.weights(), request.getfixturevalue("whole_ddpm").weights()) == []
