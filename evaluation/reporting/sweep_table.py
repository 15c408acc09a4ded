"""The table at the end of a sweep (`-m sampler.steps=4,12`), with a row for each run.

The folder of the sweep is `hydra.sweep.dir`, with a folder for each run, named by its values, and `results.csv`.
"""

import json
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

TABLE = "results.csv"


class SweepTable(Callback):
    """Writes and prints the table of a finished sweep of evaluations; removes the empty folders of Hydra's jobs."""

    def rows(self, folder: Path):
        """A data frame with a row for every run below `folder`: its name, and the means of the model's metrics."""
        import pandas as pd  # slow

        found = {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("*/metrics.json"))}
        means = {
            run: {name: one and one["mean"] for name, one in result["methods"].get("model", {}).items()}
            for run, result in found.items()
        }
        return pd.DataFrame([{"run": run, **metrics} for run, metrics in means.items()])

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        folder = Path(config.hydra.sweep.dir)
        for job in folder.glob("[0-9]*"):
            if job.is_dir() and not any(job.iterdir()):
                job.rmdir()
        table = self.rows(folder)
        if len(table):
            table.to_csv(folder / TABLE, index=False)
            print(table.to_string(index=False, float_format="%.4g"), folder / TABLE, sep="\n")
