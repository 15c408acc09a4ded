"""Config keys that have another name than in earlier versions."""

import sys

from omegaconf import DictConfig, OmegaConf, open_dict

from common.errors import UserError

# Another name: the key. Both work: the VQ-GAN had its own names for keys of the other stages.
ALIASES: dict[str, str] = {
    "model.max_steps": "model.train_num_steps",
    "model.lr": "model.train_lr",
    "model.default_root_dir": "model.results_folder",
}

# Old key: new key. The old one still works; a line names the new one.
KEPT: dict[str, str] = {
    "model.prior_rank": "model.prior.rank",
    "model.prior_pixels": "model.prior.pixels",
    "model.guess_from": "model.prior.start",
    "model.posterior_start": "model.prior.preconditioning",
    "model.pose_guess": "model.pose_regressor",
    "model.condition_channels": "model.conditioning.channels",
    "model.depth_bins": "model.conditioning.depth_bins",
    "model.global_embedding": "model.conditioning.global_embedding",
    "model.token_grid": "model.conditioning.token_grid",
    "model.condition_drop": "model.conditioning.drop",
    "model.prediction": "model.objective.prediction",
    "model.timesteps": "model.objective.timesteps",
    "model.zero_terminal_snr": "model.objective.zero_terminal_snr",
    "model.min_snr_gamma": "model.objective.min_snr_gamma",
    "model.snr_weight": "model.objective.snr_weight",
    "model.timestep_power": "model.objective.timestep_power",
    "model.noise_first": "model.objective.pure_noise_warmup",
    "model.perceptual_network": "model.losses.perceptual.network",
    "model.perceptual_weight": "model.losses.perceptual.weight",
    "model.perceptual_slices": "model.losses.perceptual.slices",
    "model.adversarial_weight": "model.losses.adversarial.weight",
    "model.adversarial_start": "model.losses.adversarial.start",
    "model.discriminator_iter_start": "model.losses.adversarial.start",
    "model.discriminator_optimizer": "model.losses.adversarial.optimizer",
    "model.discriminator": "model.losses.adversarial.discriminator",
    "model.classification_weight": "model.losses.classification.weight",
    "model.classifier_ckpt": "model.losses.classification.classifier_ckpt",
    "model.lora": "model.lora.enabled",
    "model.lora_rank": "model.lora.rank",
    "model.lora_alpha": "model.lora.alpha",
    "model.lora_target_modules": "model.lora.target_modules",
    "model.gradient_checkpointing": "model.memory.gradient_checkpointing",
    "model.cache_xray": "model.memory.cache_xray",
    "model.cache_latents_gb": "model.memory.cache_latents_gb",
    "model.cache_volumes_gb": "model.memory.cache_volumes_gb",
}

# Old key: new key. The old one ends the command with a line that names the new one.
MOVED: dict[str, str] = {"voi": "crop_box"}

_GROUPS = ("model.discriminator", "model.discriminator_optimizer")  # of KEPT: keys below them are renamed too


def rename_override(word: str) -> str:
    """An override under the present name of its key; other words of the command line come back unchanged.

    A key of `KEPT` is renamed with a line on stderr.

    Raises:
        UserError: for a key of `MOVED`, naming the new key.
    """
    old, equals, value = word.partition("=")
    prefix = old[: len(old) - len(old.lstrip("+~"))]
    old = old.removeprefix(prefix)
    group = next((name for name in _GROUPS if old.startswith(f"{name}.")), None)
    if equals and group is not None:
        return f"{prefix}{_new_name(group)}{old.removeprefix(group)}={value}"
    if not equals or old not in {**ALIASES, **KEPT, **MOVED}:
        return word
    return f"{prefix}{_new_name(old)}={value}"


def rename_keys(cfg: DictConfig) -> None:
    """Moves values under former keys, as a user's experiment file may have, to the present ones, with a line each.

    Raises:
        UserError: for a key of `MOVED`, and for a former key whose name is now that of a group.
    """
    missing = object()
    for old in (*ALIASES, *KEPT, *MOVED):
        value = OmegaConf.select(cfg, old, default=missing, throw_on_missing=False)
        if value is missing or OmegaConf.is_config(value):
            continue
        new = {**ALIASES, **KEPT, **MOVED}[old]
        if new.startswith(f"{old}."):
            raise UserError(f"{old}={value}: renamed to {new}")
        group, _, key = old.rpartition(".")
        with open_dict(cfg):
            OmegaConf.update(cfg, _new_name(old), value)
            (OmegaConf.select(cfg, group) if group else cfg).pop(key)


def present_name(key: str) -> str:
    """The present name of a dotted key, without a line."""
    return {**ALIASES, **KEPT}.get(key, key)


def _new_name(old: str) -> str:
    if old in ALIASES:
        return ALIASES[old]
    if old in MOVED:
        raise UserError(f"{old}: renamed to {MOVED[old]}")
    sys.stderr.write(f"{old}: renamed to {KEPT[old]}; the old name will end in the next version\n")
    return KEPT[old]
