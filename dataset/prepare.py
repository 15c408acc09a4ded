"""Makes a training set from hospital exports: `python dataset/prepare.py source=<folder> output=<folder>`.

DICOM and NIfTI at any depth become HU volumes, paired X-rays and `manifest.csv`; --help lists every option.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in dataset/ must not shadow a library

from common.cli import command  # noqa: E402


@command("prepare")
def main(cfg) -> None:
    """Prepare the set and print the summary."""
    from rich.console import Console

    from dataset.preparation.options import prepare_set
    from dataset.preparation.summary import summary_table

    outcome, manifest = prepare_set(cfg)
    Console().print(summary_table(outcome))
    print(manifest)


if __name__ == "__main__":
    main()
