"""Fills the config of a fine-tuning from the model that it starts from: its data and the structure of its networks."""

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ddpm.pipeline import XrayToCTPipeline
from ddpm.xray_encoder import CNNXrayEncoder
from evaluation.protocol.checkpoint_data import take_data_of_checkpoint
from train.generator.finetuning import Origin

OBJECTIVE = {
    "timesteps": "num_train_timesteps",
    "schedule": "beta_schedule",
    "zero_terminal_snr": "rescale_betas_zero_snr",
}


def take_config_of_origin(cfg: DictConfig, origin: Origin) -> None:
    """Sets the keys of networks, objective, sizes, window and alignment to those of the origin.

    Keys of the command line count more; with `experiment=` of the command line, or for a repeated stored config,
    nothing changes. `Origin.load_into` refuses what does not fit.
    """
    if not HydraConfig.initialized() or "dataset" not in HydraConfig.get().runtime.choices:
        return
    given = {word.lstrip("+~").partition("=")[0].replace("/", ".") for word in HydraConfig.get().overrides.task}
    if "experiment" in given:
        return
    take_data_of_checkpoint(cfg, "train_ddpm", origin.pipeline.protocol, origin.path)
    for key, value in network_keys(origin.pipeline).items():
        parents = {key.rsplit(".", n)[0] for n in range(key.count("."))}
        if not parents & given:
            OmegaConf.update(cfg, key, value, merge=False)


def network_keys(pipeline: XrayToCTPipeline) -> dict[str, object]:
    """Config keys of `model` with the values by which a pipeline was built; not those of pretrained X-ray encoders."""
    denoiser, scheduler, prior = pipeline.denoiser.config, pipeline.training_scheduler.config, pipeline.prior
    condition, use = denoiser.condition or {}, denoiser.prior or {}
    prediction = scheduler.get("prediction_type", "flow")
    found = {f"model.{key}": denoiser[key] for key in ("dim", "dim_mults", "full_conv")}
    found |= {
        f"model.denoiser.{key}": denoiser[key] for key in ("blocks", "depth_attention", "head_dim", "regression")
    }
    found |= {f"model.conditioning.{key}": condition[key] for key in ("channels", "token_grid") if key in condition}
    found["model.conditioning.global_embedding"] = condition.get("embedding_dim") != 0
    if pipeline.lift is not None:
        found["model.conditioning.depth_bins"] = pipeline.lift.config.depth_bins
    found["model.objective.prediction"] = prediction
    if prediction != "flow":
        found |= {f"model.objective.{key}": scheduler[theirs] for key, theirs in OBJECTIVE.items()}
    found["model.conditioning.view_drop"] = pipeline.protocol.get("view_drop", 0.0)
    found["model.prior.rank"] = 0 if prior is None else prior.config.rank
    found["model.prior.preconditioning"] = use.get("preconditioning") is not None
    if isinstance(pipeline.xray_encoder, CNNXrayEncoder):
        settings = {k: v for k, v in pipeline.xray_encoder.config.items() if not k.startswith("_")}
        found["model.xray_encoder"] = {"_target_": "ddpm.xray_encoder.CNNXrayEncoder", **settings}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}
