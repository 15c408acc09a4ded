"""A fine-tuning takes data and networks from the model that it starts from, except keys of the command line."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from common.cli import CONFIG
from common.errors import UserError
from evaluation.generation.open_pipeline import SHIPPED
from train.generator.build_module import build_module
from train.generator.finetuning import Origin
from train.generator.origin_config import network_keys, take_config_of_origin


@pytest.fixture(scope="module")
def origin() -> Origin:
    return Origin("shipped")


def filled(origin, *words: str):
    """The config of the command with these words, filled from the origin."""
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        whole = compose("train_ddpm", list(words), return_hydra_config=True)
        cfg = compose("train_ddpm", list(words))
    try:
        HydraConfig.instance().set_config(whole)
        take_config_of_origin(cfg, origin)
    finally:
        HydraConfig.instance().cfg = None
    return cfg


def build(cfg, origin):
    encoder = origin.pipeline.latent_encoder
    return build_module(cfg, encoder, encoder.latent_shape(origin.pipeline.volume_size), origin)


def test_the_shipped_weights_start_a_training_on_a_folder_without_further_keys(origin, tmp_path):
    cfg = filled(origin, "model.init_from=shipped", "dataset=default", f"dataset.root_dir={tmp_path}")
    assert origin.path == SHIPPED and cfg.dataset.root_dir == str(tmp_path) and cfg.dataset.name == "default"
    assert tuple(cfg.dataset.volume_size) == origin.pipeline.volume_size
    assert cfg.dataset.align == origin.pipeline.protocol["align"]
    module = build(cfg, origin)  # refuses networks of another structure
    for name, part in origin.pipeline.trained.items():
        assert all((v == part.state_dict()[k]).all() for k, v in module.trained[name].state_dict().items()), name


def test_keys_of_the_command_line_count_more_and_are_refused_if_they_do_not_fit(origin):
    cfg = filled(origin, "dataset=default", "model.dim=24", "dataset.volume_size=[64,64,64]")
    assert cfg.model.dim == 24 and list(cfg.dataset.volume_size) == [64, 64, 64]
    with pytest.raises(UserError, match="denoiser.dim=.* there, 24 here"):
        build(cfg, origin)


def test_a_recipe_is_left_as_it_is(origin):
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        plain = compose("train_ddpm", ["experiment=chests_ddpm"])
    assert filled(origin, "experiment=chests_ddpm") == plain


def test_every_key_exists(origin):
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose("train_ddpm")
    missing = object()
    assert [
        key for key in network_keys(origin.pipeline) if OmegaConf.select(cfg, key, default=missing) is missing
    ] == []
