"""The weights that a classifier's training keeps, and its dropout."""

from types import SimpleNamespace

import torch
from torch import nn

from ddpm.checkpoint.load import load_classifier
from ddpm.classifiers.xray import XrayClassifier
from train.classifier.module import ClassifierModule, KeepBest

ENCODER = {"class": "CNNXrayEncoder", "config": {"width": 8, "blocks": 1, "feature_channels": 8, "embedding_dim": 8}}


def module(dropout: float = 0.0) -> ClassifierModule:
    torch.manual_seed(0)
    return ClassifierModule(XrayClassifier(ENCODER, dropout), "xray", torch.optim.Adam, 8, protocol={"input": "xray"})


def validated(best: KeepBest, area: float, step: int) -> None:
    trainer = SimpleNamespace(callback_metrics={"val/auc": area}, global_step=step, is_global_zero=True)
    best.on_validation_end(trainer, module())


def kept(best: KeepBest) -> dict:
    return load_classifier(best.path)[1]["chosen"]


def test_a_resumed_run_keeps_better_weights_than_its_checkpoint_knows(tmp_path):
    """The checkpoint of a batch is written before its validation, after which the run was killed."""
    best = KeepBest(tmp_path, patience=3)
    validated(best, 2 / 3, 2), validated(best, 0.5, 4)
    state = best.state_dict()
    validated(best, 5 / 6, 6)
    resumed = KeepBest(tmp_path, patience=3)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == best.state_dict()
    validated(resumed, 0.75, 8), validated(resumed, 5 / 6, 10)
    assert kept(resumed) == {"val_auc": 0.833333, "batches": 6} and resumed.waited == 2
    validated(resumed, 0.9, 12)
    assert kept(resumed) == {"val_auc": 0.9, "batches": 12}


def test_the_count_of_validations_without_a_better_one_goes_on(tmp_path):
    best, resumed = KeepBest(tmp_path, patience=3), KeepBest(tmp_path, patience=3)
    validated(best, 2 / 3, 2), validated(best, 0.5, 4)
    resumed.load_state_dict(best.state_dict())
    assert resumed.state_dict() == best.state_dict() and resumed.waited == 1
    resumed.load_state_dict({**best.state_dict(), "best": 2 / 3})  # of earlier versions, not rounded
    assert resumed.waited == 1


def test_dropout_depends_on_seed_step_and_process_alone():
    trained, ones = module(0.5), torch.ones(64)
    dropout = next(layer for layer in trained.modules() if isinstance(layer, nn.Dropout))

    def drawn(step: int, seed: int = 0) -> torch.Tensor:
        trained.seed = seed
        trained.on_train_batch_start({"step": torch.tensor([step, step])}, 0)
        return dropout(ones)

    first = drawn(3)
    assert not torch.equal(drawn(4), first) and not torch.equal(drawn(3, seed=1), first)
    torch.rand(7)
    assert torch.equal(drawn(3), first)
