"""Type and range of every value of the config, which a command checks before its work begins.

A rule is words joined by `|`: a literal such as `auto`, `text`, `path` (a text that no number replaces, since Hydra
reads 2024_11_29 as 20241129), `patient` (a text or a whole number, since Hydra reads 1.10 as 1.1), `int` or `number`
with bounds (`int >= 1`, `number > 0 < 1`) and a step (`int >= 8 step 8`), or a list of so many of them
(`[3 int >= 1]`, of any number without one). Booleans, texts and lists of texts need no rule: the default value states
their type. A default of null allows null.
"""

import math
import operator
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from common.errors import UserError

SHARE = "number >= 0 <= 1"
OFF = "int >= 0 | null"  # 0 switches off, null too
RULES: dict[str, str] = {  # rule: keys, by their last words; the longest that matches counts
    "int >= 1": """batch_size generate_batch_size samples cases calibration_cases draws steps sampling_timesteps
        train_num_steps timesteps gradient_accumulate_every checkpoint_every save_and_sample_every
        log_every_n_steps num_nodes views n_codes embedding_dim n_res_blocks downsample patch blocks head_dim
        width feature_channels stride depth_bins pixels lora.rank prior.pixels adversarial.discriminator.channels
        places in_channels kernel_size num_layers_d slices perceptual.slices slices_per_batch init_features growth_rate
        drrs readers max_samples train neighbours diffusion_img_size diffusion_depth_size diffusion_num_channels
        trajectories batches image_size oversample train_classifier.model.validate_every
        train_classifier.model.batch_size train_lung_network.model.batch_size""",
    "auto | int >= 1": "model.batch_size",
    "auto | path": "resume",
    "patient | [patient] | null": "test_patients val_patients",
    "int >= 1 | null": "validate_every picture_every patience cases_per_arm pseudo",
    "int >= 8 step 8": "dim n_hiddens",
    "int >= 0": """seed generate_seed morph_seed fold num_workers warmup_steps prepare_workers workers test_from
        calibration_from nifti max_queue val test morphs dataset.phantoms score.samples adversarial.start""",
    OFF: "prior.rank fill_rank conditioning.channels token_grid preview_every",
    "int >= 2": "n_folds",
    "2 | 3": "dimensions spatial_dims",
    "int >= 1 <= 65535": "port",
    "int >= 0 | [int >= 0]": "gpus",
    "auto | int >= -1 | [int >= 0]": "devices",
    "number > 0": """lr train_lr alpha gradient_clip min_snr_gamma timestep_power keep_minutes xray_megabytes
        ct_megabytes drr_distance limit least_mm""",
    "number > 0 | null": "max_hours",
    "number >= 0 | null": "min_vessel_hu max_days drr_photons",
    f"{SHARE} | null": "classification.margin",
    "number >= 0": """weight weight_decay commitment_weight snr_weight guidance_scale cache_latents_gb cache_volumes_gb
        margin min_lung_ml tilt degrees roll angle distance gamma blur noise zoom local_contrast affine
        morph.size organs_mm wall lung_density bone_density""",
    SHARE: """share val_share test_share pe_share ap_share sign_rate shift collimation markers lines drop dropout
        view_drop pure_noise_warmup prior.start phantoms repeat_share expected_auc curve film.crop letterbox
        unmarked""",
    "number > 0 < 1": "level sensitivity",
    "number >= 0 < 1": "codebook_decay ema_decay",
    "[3 int >= 1]": "volume_size size",
    "[3 int >= 1] | null": "crop",
    "[2 int >= 16]": "xray_size",
    "[3 number > 0]": "spacing extent",
    "[3 number > 0] | null": "prepare.spacing",
    "[[3 int >= 1]]": "strides",
    "trailing | log_snr": "sampler.spacing",
    "[2 number > 0]": "drr_field",
    "[2 number]": "towards",
    "[2 number >= 0]": "contrast smooth_mm",
    "[2 number >= 0 < 1]": "betas",
    "[int >= 1]": "dim_mults block_config model.channels ages",
    "text | [2 number]": "window source_window",
    "text | [text] | null": "pairs.patients findings",
    "text | [text]": """classifiers generators metrics target_modules label.positive
        label.negative""",
    "[text] | null": "parts",
    "auto | cpu | mps | cuda | cuda:<number>": "device",
    "PA | AP": "view drr_view",
    "bilinear | linear | two_material": "drr_attenuation",
    "lungs | none": "align",
    "true | false": "pose_regressor freeze_xray_encoder",
    "vae | vqgan | maisi": "latent_encoder",
    "true | false | warn": "deterministic",
    "on | off | true | false": "consistency",
    "text": """calibration_split series id column key method_b patients precision objective.prediction
        adversarial.discriminator.norm pairs.split""",
    "path": """checkpoint regression_checkpoint bounds lung_guide origin init_from weights a b output root_dir
        cache_dir results_folder results_folder_postfix answers study films source linkage lungmask_weights pairs
        from_csv file volumes run vqgan_run ddpm_run classification push sha256 truth prediction predictions protocol
        vae_ckpt vqgan_ckpt maisi_ckpt classifier_ckpt lpips totalsegmentator index xray password masks""",
}
_RULES = {key: rule for rule, keys in RULES.items() for key in keys.split()}
SIGNS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
NAMES = {"int": "a whole number", "number": "a number", "text": "a text", "path": "a text",
         "patient": "a name (quote numbers twice)"}  # fmt: skip


def check_values(cfg: DictConfig, defaults: DictConfig, command: str = "") -> None:
    """Checks every value whose default is no interpolation, and every path; null turns into 0 where 0 switches off.

    Raises UserError with the whole key, the value and what is allowed.
    """
    for key, default in leaves(defaults):
        value = OmegaConf.select(cfg, key, default=default, throw_on_missing=False)
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        rule = rule_of(f"{command}.{key}", default)
        if rule is not None and not fits(value, rule):
            if "path" in rule and _is_number(value):
                raise UserError(f"""{key}={value}: read as a number; quote it twice, as in '{key}="2024_11"'""")
            example = f", such as {_shown(default)}" if isinstance(default, list) else ""
            raise UserError(f"{key}={_shown(value)}: give {_words(rule)}{example}")
        if value is None and rule == OFF:
            OmegaConf.update(cfg, key, 0)
    for key in _interpolated_paths(defaults):
        value = OmegaConf.select(cfg, key, throw_on_resolution_failure=False)
        if _is_number(value) or (value is None and not OmegaConf.is_interpolation(*_parent(cfg, key))):
            raise UserError(f"{key}={_shown(value)}: give a text; quote a number twice, as in '{key}=\"2024_11\"'")


def _parent(cfg: DictConfig, key: str) -> tuple[DictConfig, str]:
    """The node that holds a key, and its last word."""
    path, _, name = key.rpartition(".")
    return (OmegaConf.select(cfg, path) if path else cfg), name


def _interpolated_paths(tree: DictConfig, prefix: str = "") -> Iterator[str]:
    """The keys of paths whose value is an interpolation, without arguments of constructors."""
    for name in () if "_target_" in tree else tree:
        key = f"{prefix}{name}"
        if OmegaConf.is_interpolation(tree, name):
            if "path" in _RULES.get(str(name), ""):
                yield key
        elif not OmegaConf.is_missing(tree, name) and OmegaConf.is_dict(tree[name]):
            yield from _interpolated_paths(tree[name], f"{key}.")


def leaves(tree: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`(dotted key, value)` of every value that is neither an interpolation nor an argument of Hydra."""
    for name in tree:
        if OmegaConf.is_interpolation(tree, name) or OmegaConf.is_missing(tree, name) or str(name).startswith("_"):
            continue
        value, key = tree[name], f"{prefix}{name}"
        if OmegaConf.is_dict(value):
            yield from leaves(value, f"{key}.")
        else:
            yield key, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def rule_of(key: str, default: Any) -> str | None:
    """The rule of a key; None for a value without one, such as a list of groups of keys."""
    words = key.split(".")
    rule = next((found for i in range(len(words)) if (found := _RULES.get(".".join(words[i:])))), None)
    if rule is None and isinstance(default, bool):
        rule = "true | false"
    elif rule is None and isinstance(default, str):
        rule = "text"
    elif rule is None and isinstance(default, list) and all(isinstance(value, str) for value in default):
        rule = "[text]"
    return f"{rule} | null" if rule and default is None and "null" not in rule else rule


def fits(value: Any, rule: str) -> bool:
    """Whether a value is one of the alternatives of a rule."""
    return any(_fits_one(value, one.strip()) for one in rule.split(" | "))


def _fits_one(value: Any, rule: str) -> bool:
    if rule.startswith("["):
        count, inner = re.fullmatch(r"\[(\d*) ?(.*)\]", rule).groups()
        right = isinstance(value, list) and (len(value) == int(count) if count else len(value) > 0)
        return right and all(_fits_one(item, inner) for item in value)
    kind, step, bounds = _parsed(rule)
    if kind not in ("int", "number"):
        if kind in ("text", "path", "patient"):
            number = kind == "text" and _is_number(value) or kind == "patient" and type(value) is int
            return isinstance(value, str) or number
        return re.fullmatch(re.escape(rule).replace("<number>", r"\d+"), _shown(value)) is not None
    if not _is_number(value) or (kind == "int" and isinstance(value, float)) or math.isnan(value):
        return False
    return (kind == "number" or value % step == 0) and all(SIGNS[sign](value, bound) for sign, bound in bounds)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@lru_cache
def _parsed(rule: str) -> tuple[str, int, list[tuple[str, float]]]:
    """Kind, step and bounds of `int` or `number`; other rules are literals."""
    step = re.search(r" step (\d+)", rule)
    bounds = [(sign, float(bound)) for sign, bound in re.findall(r"(>=|>|<=|<) (\S+)", rule)]
    return rule.split()[0], int(step.group(1)) if step else 1, bounds


def _words(rule: str) -> str:
    """A rule as words of an error message."""

    def one(part: str) -> str:
        if part.startswith("["):
            count, inner = re.fullmatch(r"\[(\d*) ?(.*)\]", part).groups()
            plural = re.sub(
                "^a | a ", " ", re.sub(r"\b(list|number|text|name)\b", r"\1s", one(inner), count=1)
            ).strip()
            return f"a list of {count + ' ' if count else ''}{plural}"
        kind, step, _ = _parsed(part)
        if kind not in NAMES:
            return part
        bounds = part.partition(" step ")[0].removeprefix(kind)
        bounds = bounds.replace(" >= ", " of at least ").replace(" <= ", " and at most ").replace(" > ", " above ")
        return NAMES[kind] + bounds.replace(" < ", " and below ") + (f", a multiple of {step}" if step > 1 else "")

    return " or ".join(one(part.strip()) for part in rule.split(" | "))


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
