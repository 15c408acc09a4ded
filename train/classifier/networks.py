"""Building an X-ray classifier out of its config: around the generator's own encoder, or any other."""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from common.errors import UserError
from ddpm.checkpoint.load import load_pipeline
from ddpm.classifiers.xray import XrayClassifier


def xray_classifier(encoder: DictConfig, init_from: str | None = None, dropout: float = 0.1) -> XrayClassifier:
    """A head on an X-ray encoder, all of which trains.

    Args:
        encoder: config node of one of `ddpm.xray_encoder`.
        init_from: checkpoint of a generator, whose own encoder is taken instead.

    Raises:
        UserError: for a generator whose sources are volumes.
    """
    if init_from is None:
        return XrayClassifier.around(instantiate(encoder, _convert_="all"), dropout)
    found = load_pipeline(init_from).xray_encoder
    if found.volumetric:
        raise UserError(f"classifier.init_from={init_from}: its sources are volumes, it has no X-ray encoder")
    return XrayClassifier.around(found, dropout)


@torch.no_grad()
def check_size(network: torch.nn.Module, shape: tuple[int, ...], key: str) -> None:
    """One empty input tells whether its size suits the network.

    Raises:
        UserError: naming the key of the size.
    """
    training = network.training
    try:
        network.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{key}={list(shape[-3:])}: does not suit the classifier ({reason})") from error
    network.train(training)
