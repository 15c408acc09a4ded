"""Writes the report of an evaluation from the files in its folder: one HTML page that opens offline.

`python evaluation/report.py run=<folder>`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402
from common.errors import UserError  # noqa: E402
from evaluation.reporting.html_report import write_report  # noqa: E402


@command("report")
def main(cfg) -> None:
    if cfg.run is None:
        raise UserError("run: missing; give the folder of an evaluation, for example run=outputs/evaluate/latest")
    for key in ("vqgan_run", "ddpm_run", "classification"):
        if cfg[key] is not None and not Path(cfg[key]).is_dir():
            raise UserError(f"{key}={cfg[key]}: no such folder; correct it or leave it out")
    runs = {"VQ-GAN": cfg.vqgan_run, "DDPM": cfg.ddpm_run}
    print(write_report(Path(cfg.run), runs, cfg.classification))


if __name__ == "__main__":
    main()
