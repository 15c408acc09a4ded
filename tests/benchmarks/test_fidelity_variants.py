"""The methods of the fidelity benchmark: options that there are, rows that are compared with their like."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from benchmarks.fidelity import hypotheses as claims
from benchmarks.fidelity import table
from benchmarks.fidelity.run import ROOT
from benchmarks.fidelity.variants import methods
from evaluation.scoring.score_cases import TRUTH

OTHERWISE = {"regression", "unknown_pose_regression", "ancestor", "ancestor_1000"}  # draw noise their own way


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("name", sorted(methods(64)))
def test_every_method_is_made_of_options_that_there_are(name, size):
    method = methods(size)[name]
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        cfg = compose("train_ddpm", [f"experiment=fidelity_{size}", *method.train, *method.trained_on])
        instantiate(cfg.model.objective)  # refuses what does not go together
        compose("evaluate", [f"experiment=fidelity_{size}", *method.judge, *method.judged_on])
    if method.trained_as is not None:
        whose = methods(size)[method.trained_as]
        assert (method.train, method.trained_on, method.minutes) == (whose.train, whose.trained_on, whose.minutes)


def test_rows_of_two_methods_never_share_a_name():
    names = [ours for method in methods(64).values() for ours in method.judged.values()]
    assert len(names) == len(set(names))
    known = set(names) | {TRUTH}
    assert {name for pair in table.PAIRS for name in pair} <= known
    assert {name for claim in claims.CLAIMS for name in (claim.one, claim.other)} <= known
    assert set(table.SEEDLESS) <= known


def test_budgets_are_those_of_the_machine_that_a_size_is_for():
    assert {method.minutes for method in methods(128).values()} == {4.0}
    at_64 = {name: method.minutes for name, method in methods(64).items()}
    assert {at_64[name] for name in ("model", "regression", "ancestor", "ancestor_1000")} == {20.0}
    assert at_64["whole_8min"] == at_64["no_lifting"] == at_64["unknown_pose"] == 8.0


def test_rows_are_compared_with_rows_that_draw_and_weigh_noise_alike():
    """Parts are taken from one recipe, `model` has another: a difference must not mix the two."""
    drawn = {}
    for method in methods(64).values():
        options = dict(option.split("=", 1) for option in method.train)
        for row in method.judged.values():
            drawn[row] = (options["model.timestep_power"], options.get("model.snr_weight", "null"))
    assert drawn["model"] == drawn["unknown_pose"] == drawn["quiet_levels"] == ("1", "0.2")
    assert drawn["whole_8min"] == drawn["no_lifting"] == ("2", "null")
    judged = {(claim.one, claim.other) for claim in claims.CLAIMS} | set(table.PAIRS)
    compared = {pair for pair in judged if not OTHERWISE & set(pair) and not set(table.SEEDLESS) & set(pair)}
    assert [pair for pair in compared if drawn[pair[0]] != drawn[pair[1]]] == [("whole_8min", "quiet_levels")]
    whole, quiet = (set(methods(64)[name].train) for name in ("whole_8min", "quiet_levels"))
    assert whole - quiet == {"model.timestep_power=2", "model.snr_weight=null"} and quiet <= whole
