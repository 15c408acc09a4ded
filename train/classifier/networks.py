"""Builds the network of a classifier, and checks that it fits the size of its inputs."""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from common.errors import UserError, user_errors
from ddpm.checkpoint.load import load_pipeline
from ddpm.classifiers.xray import XrayClassifier


def xray_classifier(encoder: DictConfig, init_from: str | None = None, dropout: float = 0.1) -> XrayClassifier:
    """A head on an X-ray encoder, both of which train.

    Args:
        encoder: config node of one of `ddpm.xray_encoder`.
        init_from: checkpoint of a generator whose encoder is used instead.

    Raises UserError for a generator whose sources are volumes.
    """
    if init_from is None:
        return XrayClassifier.around(instantiate(encoder, _convert_="all"), dropout)
    found = load_pipeline(init_from).xray_encoder
    if found.volumetric:
        raise UserError(f"classifier.init_from={init_from}: its sources are volumes, it has no X-ray encoder")
    return XrayClassifier.around(found, dropout)


@user_errors()
def build_network(cfg: DictConfig) -> torch.nn.Module:
    """The network of `classifier.network`.

    Raises UserError for invalid values, or a size of volumes or X-rays that does not suit it.
    """
    network, dataset = instantiate(cfg.classifier.network, _convert_="all"), cfg.dataset
    key, shape = "volume_size", (1, *dataset.volume_size)
    if cfg.classifier.input == "xray":
        key, shape = "xray_size", (dataset.views, 1, *dataset.xray_size)
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"dataset.{key}={list(dataset[key])}: does not suit the classifier ({reason})") from error
    return network.train(training)
