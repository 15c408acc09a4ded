"""The table of a sweep of trainings (`-m model.dim=32,64`): a row for each run with its values and last figures."""

import json
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from common.cli import swept_keys
from evaluation.reporting.sweep_table import SweepTable as ResultTable


def overrides() -> list[str]:
    """The options of this run, of a sweep its own alone; [] outside a command."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


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
