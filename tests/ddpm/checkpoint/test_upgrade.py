"""Names of older versions become the present names; content with present names stays unchanged."""

import torch

from ddpm.checkpoint.upgrade import upgrade
from ddpm.denoiser.unet import UNet3D
from ddpm.registry import upgrade_config

FLAT = {"in_channels": 4, "dim": 8, "condition_channels": 3, "embedding_dim": 24, "token_channels": 0, "token_grid": 0}


def test_flat_arguments_of_the_unet_are_grouped():
    preconditioning = {"timesteps": 10, "schedule": "squaredcos_cap_v2", "zero_terminal_snr": True}
    old = {**FLAT, "prior": True, "residual": True, "blind": False, "posterior": preconditioning}
    new = upgrade_config("UNet3D", old)
    assert new["condition"] == {"channels": 3, "embedding_dim": 24, "token_channels": 0, "token_grid": 0}
    grouped = {"residual": True, "preconditioning": {**preconditioning, "prediction": "sample"}}
    assert new["prior"] == grouped and new["regression"] is False
    assert UNet3D(**new).condition.channels == 3
    assert upgrade_config("UNet3D", {**FLAT, "prior": False, "residual": False, "posterior": None})["prior"] is None
    assert upgrade_config("UNet3D", new) == new


def test_preconditioning_without_a_target_is_of_clean_latents():
    old = {"timesteps": 10, "schedule": "squaredcos_cap_v2", "zero_terminal_snr": True}
    for given, kept in ((old, "sample"), ({**old, "prediction": "flow"}, "flow")):
        new = upgrade_config("UNet3D", {"prior": {"residual": True, "preconditioning": given}})
        assert new["prior"]["preconditioning"] == {**old, "prediction": kept}


def test_renamed_parts_bring_their_weights_along():
    entry = {"class": "PoseGuess", "config": {"pixels": 8}, "prefix": "pose_guess."}
    old = {"header": {"components": {"pose_guess": entry}}, "ema": {},
           "state_dict": {"pose_guess.bias": torch.ones(1), "denoiser.pose_guess": torch.zeros(1)}}  # fmt: skip
    new = upgrade(old)
    part = {"class": "PoseRegressor", "config": {"pixels": 8}, "prefix": "pose_regressor."}
    assert new["header"]["components"] == {"pose_regressor": part}
    assert new["state_dict"].keys() == {"pose_regressor.bias", "denoiser.pose_guess"}
    assert upgrade(new) == new and upgrade({"state_dict": {}}) == {"state_dict": {}}
