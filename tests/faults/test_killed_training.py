"""Training killed (-9) at random moments, and within the writing of a checkpoint, and resumed each time.

The final weights, averages and optimizer moments are bit for bit those of an undisturbed run.
"""

import random

from fault_runs import differing, stages_and, weights

from train.run.checkpoint_io import whole_checkpoint

MOMENTS = ["half_written", "before_sync", "after_sync", "between_names", "after_rename"]


def readable(training) -> None:
    """What a kill leaves is whole."""
    for path in (training.place / "runs").glob("*/checkpoints/*.ckpt"):
        assert whole_checkpoint(path)[0] == path


@stages_and("kills", [2, 12], ("ddpm", 2))
def test_killed_at_random_moments(training, kills, request):
    expected = request.getfixturevalue(f"whole_{training.stage}").weights()
    chance, landed = random.Random(f"{training.stage} {kills}"), 0
    command = training.start()
    while landed < kills:
        if landed % 2:  # at any time from the start of the process on
            landed += command.killed_after(chance.uniform(0.2, 3.0))
        else:  # while it trains
            training.until_saved(command, chance.randint(1, 3))
            landed += command.killed_after(chance.uniform(0.0, 0.2))
        readable(training)
        if command.code == 0:  # it was quicker: another run takes the kills that are left
            assert differing(training.weights(), expected) == []
            training.forget()
            command = training.start()
        else:
            command = training.resume()
    command.fine()
    assert differing(training.weights(), expected) == []


@stages_and("moment", MOMENTS, ("vqgan", "between_names"), ("ddpm", "half_written"))
def test_killed_within_a_checkpoint(training, moment, request):
    assert training.start(kill_in_checkpoint={"moment": moment, "count": 4}).wait() == -9
    readable(training)
    assert "resuming from" in training.resume().fine()
    assert differing(weights(training.last), request.getfixturevalue(f"whole_{training.stage}").weights()) == []
