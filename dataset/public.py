"""Selects public pairs of radiograph and chest CT from the Imaging Data Commons.

`python dataset/public.py collection=covid_19_ny_sbu kind=ctpa output=<folder>`

Writes the list of series with licence, DOI and size, downloads them with idc-index and prepares the set.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in dataset/ must not shadow a library

from common.cli import command  # noqa: E402


@command("public")
def main(cfg) -> None:
    """Write the list, then download and prepare as far as asked and possible."""
    from common.errors import UserError
    from common.files import atomic_path
    from dataset.idc.download import download, prepare_downloaded
    from dataset.idc.index import read_index, select_pairs

    if not cfg.output:
        raise UserError("output: missing; give a folder for the list and the files")
    selection = select_pairs(read_index(cfg.index, cfg.collection), cfg.kind, cfg.max_days)
    output = Path(cfg.output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "series.csv") as temporary:
        selection.series.to_csv(temporary, index=False)
    print(selection.summary())
    print(output / "series.csv")
    if cfg.download:
        download(selection, output / "dicom")
        print(prepare_downloaded(output, cfg.max_days, cfg.kind))


if __name__ == "__main__":
    main()
