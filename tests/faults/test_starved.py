"""Memory that runs out: of a data worker, and of the device that trains."""

import pytest
from fault_runs import Training, differing, stages
from test_damage import own_cache  # noqa: F401 (fixture)


@pytest.mark.slow
@pytest.mark.parametrize("training", ["vqgan"], indirect=True)
def test_a_data_worker_killed_by_the_memory_limit(training, request):
    """Killed (-9) as the kernel does it; the run ends with a line, and goes on with fewer workers."""
    line = training.start("model.num_workers=1", starve_worker={"batch": 9}).refusal()
    assert "data worker was killed" in line and "memory" in line and "model.num_workers" in line
    training.resume("model.num_workers=0").fine()
    assert differing(training.weights(), request.getfixturevalue("whole_vqgan").weights()) == []


@pytest.mark.faults
@pytest.mark.parametrize("training", ["ddpm"], indirect=True)
def test_a_data_worker_of_the_second_stage(training, request):
    line = training.start("model.num_workers=2", starve_worker={"batch": 9}).refusal()
    assert "data worker was killed" in line
    training.resume("model.num_workers=0").fine()
    assert differing(training.weights(), request.getfixturevalue("whole_ddpm").weights()) == []


@pytest.mark.faults
def test_a_worker_that_prepares_cases(server, tmp_path):
    training = Training(server, "vqgan", tmp_path, 2)
    line = training.start("dataset.prepare_workers=2", starve_builder={"case": 3}).refusal()
    assert "was killed" in line and "dataset.prepare_workers" in line and "finished cases are kept" in line
    training.start().fine()


@stages("vqgan")
def test_a_device_out_of_memory(training):
    """Raised in a step, as CUDA's allocator does: the measured peak and three things to change."""
    line = training.start(no_device_memory={"step": 3}).refusal()
    assert "out of memory" in line and "GB at peak" in line
    for number, key in ((1, "model.batch_size"), (2, "model.precision"), (3, "dataset.volume_size")):
        assert f"({number})" in line and key in line
    assert training.resume().wait() == 0
