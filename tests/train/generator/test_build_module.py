"""`build_module` rejects invalid values before it builds anything."""

import pytest
from hydra import compose, initialize_config_dir

from common.cli import CONFIG
from common.errors import UserError
from train.generator.build_module import build_module


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("flow", "model.objective.prediction=flow"),
        ("null", "model.objective.prediction=epsilon, v_prediction, sample or flow"),
    ],
)
def test_an_objective_is_chosen_by_its_prediction(given, remedy):
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose("train_ddpm", [f"model.objective={given}"])
    found = "None" if given == "null" else given
    with pytest.raises(UserError, match=f"model.objective={found}: .*{remedy}$"):
        build_module(cfg, latent_encoder=None, shape=(4, 8, 8, 8))


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_a_regression_predicts_no_noise(prediction):
    given = ["model.denoiser.regression=true", f"model.objective.prediction={prediction}"]
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose("train_ddpm", [*given, "model.objective.zero_terminal_snr=false"])
    with pytest.raises(UserError, match="cannot predict it; set model.objective.prediction=sample$"):
        build_module(cfg, latent_encoder=None, shape=(4, 8, 8, 8))
