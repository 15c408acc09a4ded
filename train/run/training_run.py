"""One run of a training command: folder, resumed checkpoint, data, memory estimate, record, and the fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from torch import nn

from common.errors import user_errors
from common.files import size_line
from dataset.datamodule import CTDataModule, prepared_data
from train.distributed.devices import many, own_device
from train.distributed.processes import print_once
from train.run.checkpoint_io import LAST
from train.run.compile import compile_in_place
from train.run.memory import AUTO, MemoryNeed, activation_bytes, choose_batch_size, restore_batch_size
from train.run.run_folder import refuse_changes, run_folder, save_config
from train.run.run_record import refuse_other_data, write_record, write_results
from train.run.sweep import refuse_several_devices
from train.run.trainer import Intervals, fit, make_trainer


@dataclass(frozen=True)
class Network:
    """The network that a run measures and compiles.

    Args:
        module: `model.memory.gradient_checkpointing` and `model.compile` apply to it.
        shapes: of the inputs `(1, …)` of one sample.
        data_bytes: size of the data that stay in memory.
        frozen: networks outside the Lightning module that also take memory.
        averaged: whether the run keeps an EMA copy of the weights.
        forward: called with the module and its inputs.
    """

    module: nn.Module
    shapes: Sequence[tuple[int, ...]]
    data_bytes: int
    frozen: Sequence[nn.Module] = ()
    averaged: bool = False
    forward: Callable = nn.Module.__call__

    def memory(self, module: pl.LightningModule, half: bool, gpu: bool) -> MemoryNeed:
        """Memory for training `module`; with `half` activations have 16 bits."""
        frozen = sum(p.numel() for part in (*self.frozen, module) for p in part.parameters() if not p.requires_grad)
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        per_sample = activation_bytes(self.module, *self.shapes, half=half, forward=self.forward)
        return MemoryNeed(frozen + trained, trained, per_sample, self.data_bytes, gpu, self.averaged)


class TrainingRun:
    """A run of the stage `vqgan`, `ddpm`, `classifier` or `lungs`; seeds the global random generators.

    Args:
        cfg: with `model`, `dataset`, `trainer` and `logger`; `fit` replaces `model.batch_size=auto` by a number.
        devices: `accelerator` and `devices` of the Trainer (`train.distributed.devices.choose_devices`).

    Attributes:
        folder: of this run.
        checkpoint: that the run resumes, or None.
        device: of this process.

    Raises UserError for a checkpoint that cannot be resumed, a config that differs from that of the resumed run, a
    folder in which another process writes, or a sweep or `model.batch_size=auto` on several devices.
    """

    def __init__(self, cfg: DictConfig, stage: str, devices: dict, intervals: Intervals):
        self.cfg, self.model, self.devices, self.intervals = cfg, cfg.model, devices, intervals
        model, self.device = self.model, own_device(devices)
        refuse_several_devices(devices, cfg.trainer.num_nodes)
        where = model.results_folder, model.results_folder_postfix
        self.folder, self.checkpoint = run_folder(stage, *where, model.resume)
        restore_batch_size(model, self.folder, many(devices, cfg.trainer.num_nodes))
        refuse_changes(cfg, self.folder, model.resume_changed)
        pl.seed_everything(model.seed, verbose=False)
        if "lora" in (model.results_folder_postfix or "").lower() and not model.get("lora", {}).get("enabled"):
            print_once(
                f"model.results_folder_postfix={model.results_folder_postfix}, but LoRA is off: all weights are "
                "trained; model.lora.enabled=true model.init_from=<checkpoint> trains adapters alone"
            )

    @property
    def last(self) -> Path:
        """The newest checkpoint of this run."""
        return self.folder / "checkpoints" / LAST

    def prepare_data(self, source, crop=None) -> CTDataModule:
        """Prepared cases of a source with open splits; 1 sample a batch until `fit` chooses `model.batch_size=auto`.

        With `crop` training cases are random crops of so many voxels `[d, h, w]`.
        """
        model = self.model
        return prepared_data(
            source,
            self.cfg.dataset,
            batch_size=1 if model.batch_size == AUTO else model.batch_size,
            num_batches=self.intervals.batches,
            num_workers=model.num_workers,
            seed=model.seed,
            crop=crop,
            keep_gb=model.memory.get("cache_volumes_gb", 0.0),
        )

    def fit(
        self,
        module: pl.LightningModule,
        data: pl.LightningDataModule,
        content: str,
        callbacks: Sequence[pl.Callback],
        network: Network | None = None,
        inputs: dict[str, str | None] | None = None,
        summary: str = "",
        fitted: bool = False,
    ) -> None:
        """Chooses the batch size, writes record and config, and trains.

        Args:
            content: hash of the data set, for the record.
            fitted: parts of the model are fitted to the data before training, so a resumed run needs the same data.
            network: None trains without a memory estimate and without `model.compile`.
            inputs: config keys that name files, whose hashes the record keeps.
            summary: printed before training, before the memory estimate.
        """
        model, gpu = self.model, self.devices["accelerator"] == "gpu"
        if network is not None:
            if model.memory.gradient_checkpointing:
                network.module.enable_gradient_checkpointing()
            need = network.memory(module, half="16" in str(model.precision), gpu=gpu)
            choose_batch_size(model, data, need)
            summary = "; ".join(filter(None, (summary, need.line(model.batch_size))))
        if fitted and self.checkpoint is not None:
            refuse_other_data(self.folder, content)
        save_config(self.cfg, self.folder)
        write_record(self.folder, model.seed, content, inputs or {}, self.checkpoint)
        with user_errors():
            trainer = make_trainer(self.cfg, self.folder, self.devices, self.intervals, list(callbacks))
        if summary:
            print_once(summary)
        if network is not None and model.compile:
            compile_in_place(network.module, "cuda" if gpu else "cpu")
        fit(trainer, module, data, self.checkpoint)
        write_results(self.folder, trainer.callback_metrics)
        if line := size_line():
            print_once(line)
