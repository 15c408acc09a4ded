"""One run of a training command: its folder, the checkpoint it resumes, its memory, its record, and the fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from torch import nn

from common.errors import user_errors
from train.distributed.devices import many
from train.distributed.processes import say
from train.run.checkpoint_io import LAST
from train.run.compile import compile_in_place
from train.run.memory import AUTO, MemoryNeed, activation_bytes, keep_choice, settle
from train.run.run_folder import refuse_changes, run_folder, save_config
from train.run.run_record import write_record
from train.run.trainer import Intervals, fit, make_trainer


@dataclass(frozen=True)
class Network:
    """The network that a run measures, compiles and checkpoints.

    Args:
        module: whose activations are estimated; `model.memory.gradient_checkpointing` and `model.compile` apply to it.
        shapes: of the inputs `(1, …)` of one sample.
        data_bytes: size of the data that stay in memory.
        frozen: networks outside the Lightning module that take memory too.
        averaged: whether an EMA copy of the weights is kept.
        forward: called with the module and its inputs; by default the module itself.
    """

    module: nn.Module
    shapes: Sequence[tuple[int, ...]]
    data_bytes: int
    frozen: Sequence[nn.Module] = ()
    averaged: bool = False
    forward: Callable = nn.Module.__call__

    def memory(self, module: pl.LightningModule, half: bool, gpu: bool) -> MemoryNeed:
        """What training `module` takes; with `half` the activations have 16 bits."""
        parameters = [p for part in (*self.frozen, module) for p in part.parameters()]
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        per_sample = activation_bytes(self.module, *self.shapes, half=half, forward=self.forward)
        total = sum(p.numel() for p in parameters if not p.requires_grad) + trained
        return MemoryNeed(total, trained, per_sample, self.data_bytes, gpu, self.averaged)


class TrainingRun:
    """A run of the stage `vqgan`, `ddpm` or `classifier` under a composed config.

    Args:
        cfg: with `model`, `trainer` and `logger`; `model.batch_size=auto` is replaced by a number in `fit`.
        devices: `accelerator` and `devices` of the Trainer (`train.distributed.devices.choose_devices`).
        results_folder: folder of the runs.

    Attributes:
        folder: of this run.
        checkpoint: that the run resumes, or None.

    Raises:
        UserError: for a checkpoint that cannot be resumed, or a folder in which another process writes.
    """

    def __init__(self, cfg: DictConfig, stage: str, devices: dict, results_folder: str):
        self.cfg, self.model, self.devices = cfg, cfg.model, devices
        postfix, resume = self.model.results_folder_postfix, self.model.resume
        self.folder, self.checkpoint = run_folder(stage, results_folder, postfix, resume)

    def check_config(self) -> None:
        """Refuses a config that differs from that of the resumed run; takes over its batch size for `auto`.

        Raises:
            UserError: listing what differs, or for `model.batch_size=auto` on several devices.
        """
        keep_choice(self.model, self.folder, many(self.devices, self.cfg.trainer.num_nodes))
        refuse_changes(self.cfg, self.folder, self.model.resume_changed)

    @property
    def batch_size(self) -> int:
        """Samples a batch; 1 while `model.batch_size=auto` is not settled."""
        return 1 if self.model.batch_size == AUTO else self.model.batch_size

    @property
    def last(self) -> Path:
        """The newest checkpoint of this run."""
        return self.folder / "checkpoints" / LAST

    def fit(
        self,
        module: pl.LightningModule,
        data: pl.LightningDataModule,
        intervals: Intervals,
        content: str,
        callbacks: Sequence[pl.Callback] = (),
        network: Network | None = None,
        inputs: dict[str, str | None] | None = None,
        summary: str = "",
    ) -> None:
        """Settles the batch size, writes record and config, and trains.

        Args:
            content: hash of the data set, for the record.
            network: None trains without a memory estimate and without `model.compile`.
            inputs: config keys that name files, whose hashes the record keeps.
            summary: said before training, ahead of the memory estimate.

        Raises:
            UserError: where training stops for a known reason.
        """
        model, gpu = self.model, self.devices["accelerator"] == "gpu"
        if network is not None:
            if model.memory.gradient_checkpointing:
                network.module.enable_gradient_checkpointing()
            need = network.memory(module, half="16" in str(model.precision), gpu=gpu)
            settle(model, data, need)
            summary = "; ".join(filter(None, (summary, need.line(model.batch_size))))
        save_config(self.cfg, self.folder)
        write_record(self.folder, model.seed, content, inputs or {}, self.checkpoint)
        with user_errors():
            trainer = make_trainer(self.cfg, self.folder, self.devices, intervals, list(callbacks))
        if summary:
            say(summary)
        if network is not None and model.compile:
            compile_in_place(network.module, "cuda" if gpu else "cpu")
        fit(trainer, module, data, self.checkpoint)
