"""Training commands that record gradients, losses, samples and the codebook in each process.

`python tests/train/recorded_run.py jobs.json` runs jobs `[name, stage, [key=value, …]]` one after the other in the
same processes; a job writes `<name>/rank<r>.pt` beside the file and trains in `<name>/run`. With `STAGE` and `RECORD`
in the environment it runs that command with its own arguments. Lightning starts further processes with this file.
`DIE=<rank>:<batch>:<how>` ends a process: `kill` by signal 9, `raise` by an error.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

from train.run import training_run  # noqa: E402


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().float().clone()


class Record(pl.Callback):
    """Writes one file a process: `rank<r>.pt`."""

    def __init__(self, folder: Path):
        self.folder, self.kept = folder, {"gradients": {}, "losses": [], "seen": [], "codes": []}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        rank, at, how = (os.environ.get("DIE") or "-1:-1:").split(":")
        if (trainer.global_rank, batch_idx) == (int(rank), int(at)):
            (self.folder / "died").touch()
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("failure for the test")
        self.kept["seen"].append([str(name) for name in batch["id"]])

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if not self.kept["gradients"]:
            named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
            self.kept["gradients"] = {name: whole(gradient) for name, gradient in named}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        metrics = trainer.callback_metrics
        self.kept["losses"].append({k: float(v) for k, v in metrics.items() if k.startswith("train/")})
        if getattr(getattr(module, "model", None), "codebook", None) is not None:
            self.kept["codes"].append(module.model.codebook.codes.clone())

    def on_train_end(self, trainer, module):
        self.kept["metrics"] = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.kept["weights"] = {name: whole(p) for name, p in module.named_parameters()}
        if hasattr(module, "averages"):
            self.kept["average"] = module.ema.by_name()
        torch.save(self.kept, self.folder / f"rank{trainer.global_rank}.pt")


def recorded(folder: Path) -> None:
    """Makes the next trainer write into this folder."""
    folder.mkdir(parents=True, exist_ok=True)

    def recording(*arguments):
        return make(*arguments[:-1], [*arguments[-1], Record(folder)])

    training_run.make_trainer = recording


if __name__ == "__main__":
    make = training_run.make_trainer
    if "STAGE" in os.environ:
        recorded(Path(os.environ["RECORD"]))
        importlib.import_module(f"train.{os.environ['STAGE']}").main()
    else:
        table = Path(sys.argv[1])
        for name, stage, overrides in json.loads(table.read_text()):
            recorded(table.parent / name)
            os.environ["XRAY2CT_RUN_FOLDER"] = str(table.parent / name / "run")
            with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
                cfg = compose(stage, overrides)
            importlib.import_module(f"train.{stage}").main.__wrapped__(cfg)
