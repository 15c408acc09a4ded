"""Sweeps (`-m model.dim=32,64`): one folder, a run in it for each combination, named by its values, and a table.

The folder is `hydra.sweep.dir`. `results.csv` in it has a row a run: the values, the last figures, the folder.
"""

import json
import re
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from common.cli import swept_keys

MAX_NAME = 120  # characters of the name of a folder
TABLE = "results.csv"


def sweep_run() -> tuple[Path, str] | None:
    """The folder of the sweep and the name of this run in it; None outside a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir), run_name(list(hydra.overrides.task), swept_keys()) or str(hydra.job.num)


def run_name(words: list[str], keys: list[str]) -> str:
    """The values of the swept `keys` among overrides, as `dim-64_seed-1`, in letters that every file system takes."""
    ends = [key.rpartition(".")[2] for key in keys]
    short = {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
    values = {key: value for key, _, value in (word.lstrip("+~").partition("=") for word in words)}
    plain = {key: re.sub(r"[^\w.+-]+", "-", value).strip("-") for key, value in values.items()}
    return "_".join(f"{short[key].replace('/', '-')}-{plain[key]}" for key in keys if key in plain)[:MAX_NAME]


def overrides() -> list[str]:
    """The options of this run, of a sweep its own alone; [] outside a command."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


class SweepTable(Callback):
    """Writes and prints the table of a finished sweep, and removes the empty folders of Hydra's jobs."""

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        folder = Path(config.hydra.sweep.dir)
        for job in folder.glob("[0-9]*"):
            if job.is_dir() and not any(job.iterdir()):
                job.rmdir()
        table = sweep_table(folder, swept_keys())
        if len(table):
            table.to_csv(folder / TABLE, index=False)
            print(table.to_string(index=False, float_format="%.4g"), folder / TABLE, sep="\n")


def sweep_table(folder: Path, keys: list[str]):
    """A data frame with a row for every run below `folder`: its values of `keys`, its last figures, and its name."""
    import pandas as pd  # slow

    rows = []
    for file in sorted(folder.glob("*/run.json")):
        config = OmegaConf.load(file.parent / ".hydra" / "config.yaml")
        values = {key: OmegaConf.select(config, key) for key in keys}
        rows.append({**values, **json.loads(file.read_text()).get("results", {}), "run": file.parent.name})
    return pd.DataFrame(rows)
