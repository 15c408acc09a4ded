"""Imported by the process from which commands are forked: their configs are parsed and nothing is collected there."""

import gc

from hydra import compose, initialize_config_dir

from common.files import ROOT
from tests.remembered_configs import remember_configs

remember_configs()
with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
    for name in ("train_vqgan", "train_ddpm", "train_classifier", "encode_latents", "generate", "evaluate"):
        compose(name)
gc.freeze()
