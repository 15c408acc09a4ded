"""A sweep of trainings (`-m model.dim=32,64`): its devices, and a table of each run's values and last figures."""

import json
import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from common.cli import swept_keys
from common.errors import UserError
from evaluation.reporting.sweep_table import SweepTable as ResultTable
from train.distributed.devices import many

STARTED_OUTSIDE = {"SUBMITIT_EXECUTOR", "TORCHELASTIC_RUN_ID", "SLURM_PROCID"}  # by submitit, torchrun, srun


def overrides() -> list[str]:
    """The options of this run, of a sweep its own alone; [] outside a command."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def refuse_several_devices(devices: dict, num_nodes: int) -> None:
    """Raises UserError for a sweep on several devices whose processes Lightning starts.

    It starts them with the whole command, so each would begin the sweep again.
    """
    if swept_keys() and many(devices, num_nodes) and not STARTED_OUTSIDE & os.environ.keys():
        raise UserError(
            f"a sweep over {', '.join(swept_keys())} on several devices (trainer.devices={devices['devices']}, "
            f"trainer.num_nodes={num_nodes}): set model.gpus=1, start the runs one by one, or submit them as jobs "
            "(hydra/launcher=slurm)"
        )


class SweepTable(ResultTable):
    """The table of a finished sweep of trainings."""

    def rows(self, folder: Path):
        """A row for every run: its values of the swept keys, its last figures, and its name."""
        return sweep_table(folder, swept_keys())


def sweep_table(folder: Path, keys: list[str]):
    """A data frame with a row for every run below `folder`: its values of `keys`, its last figures, and its name."""
    import pandas as pd  # slow

    rows = []
    for file in sorted(folder.glob("*/run.json")):
        config = OmegaConf.load(file.parent / ".hydra" / "config.yaml")
        values = {key: OmegaConf.select(config, key) for key in keys}
        rows.append({**values, **json.loads(file.read_text()).get("results", {}), "run": file.parent.name})
    return pd.DataFrame(rows)
