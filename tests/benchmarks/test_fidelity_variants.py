"""The methods of the fidelity benchmark: valid options, fair comparisons."""

import functools

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from benchmarks.fidelity import hypotheses, table
from benchmarks.fidelity.run import ROOT
from benchmarks.fidelity.variants import RECIPES, methods
from evaluation.scoring.score_cases import TRUTH

# with another noise recipe on purpose
OTHER_NOISE = {"regression", "unknown_pose_regression", "xray2ctpa", "xray2ctpa_1000", *RECIPES}


@functools.cache
def composed(command: str, *overrides: str):
    """Methods share trainings and evaluations; each of them is composed once."""
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        return compose(command, list(overrides))


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("name", sorted(methods(64)))
def test_every_method_has_valid_options(name, size):
    method = methods(size)[name]
    cfg = composed("train_ddpm", f"experiment=fidelity_{size}", *method.train, *method.trained_on)
    instantiate(cfg.model.objective)  # refuses options that contradict each other
    composed("evaluate", f"experiment=fidelity_{size}", *method.evaluate, *method.evaluated_on)
    if method.trained_as is not None:
        whose = methods(size)[method.trained_as]
        assert (method.train, method.trained_on, method.minutes) == (whose.train, whose.trained_on, whose.minutes)


def test_row_names_are_unique():
    names = [ours for method in methods(64).values() for ours in method.evaluated.values()]
    assert len(names) == len(set(names))
    known = set(names) | {TRUTH}
    assert {name for pair in table.PAIRS for name in pair} <= known
    assert {name for one in hypotheses.HYPOTHESES for name in (one.one, one.other)} <= known
    assert set(table.SEEDLESS) <= known


def test_budgets_belong_to_the_machine_of_a_size():
    assert {method.minutes for method in methods(128).values()} == {4.0}
    at_64 = {name: method.minutes for name, method in methods(64).items()}
    assert {at_64[name] for name in ("model", "regression", "xray2ctpa", "xray2ctpa_1000", *RECIPES)} == {20.0}
    assert at_64["whole_8min"] == at_64["no_lifting"] == at_64["unknown_pose"] == 8.0


def test_compared_rows_have_the_same_noise_recipe():
    """Ablations have one noise recipe, `model` another: a difference must not mix the two."""
    drawn = {}
    for method in methods(64).values():
        options = dict(option.split("=", 1) for option in method.train)
        for row in method.evaluated.values():
            drawn[row] = (options["model.objective.timestep_power"], options.get("model.objective.snr_weight", "null"))
    assert drawn["model"] == drawn["unknown_pose"] == drawn["low_noise_timesteps"] == ("1", "0.2")
    assert drawn["whole_8min"] == drawn["no_lifting"] == ("2", "null")
    evaluated = {(one.one, one.other) for one in hypotheses.HYPOTHESES} | set(table.PAIRS)
    compared = {pair for pair in evaluated if not OTHER_NOISE & set(pair) and not set(table.SEEDLESS) & set(pair)}
    assert [pair for pair in compared if drawn[pair[0]] != drawn[pair[1]]] == [("whole_8min", "low_noise_timesteps")]
    whole, low_noise = (set(methods(64)[name].train) for name in ("whole_8min", "low_noise_timesteps"))
    assert (
        whole - low_noise == {"model.objective.timestep_power=2", "model.objective.snr_weight=null"}
        and low_noise <= whole
    )
