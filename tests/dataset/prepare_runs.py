"""Runs the preparation for tests, in this process and on small series."""

import numpy as np
import pandas as pd
from dicom_files import write_ct_series
from drawn_chest import chest
from hydra import compose, initialize_config_dir

from common.cli import CONFIG
from dataset.manifest.table import read_manifest
from dataset.preparation.options import prepare_set

SPACING = (10.0, 7.0, 7.0)
HU = np.rint(chest().hu[::2, ::2, ::2]).astype(np.int16)
OTHER = np.rint(chest(blood=50.0).hu[::2, ::2, ::2]).astype(np.int16)


def configured(source, output, **options):
    """The composed options; a whole volume keeps the table, so that its HU can be compared with the scan."""
    kept = {"remove_table": "false"} if options.get("crop_box") == "whole" else {}
    overrides = [f"{key}={value}" for key, value in {"workers": 0, **kept, **options}.items()]
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        return compose("prepare", [f"source={source}", f"output={output}", *overrides])


def run(source, output, **options):
    """Manifest, with the patient of the source as `patient_raw`, and summary of a preparation."""
    prepare_set(configured(source, output, **options))
    linkage = pd.read_csv(f"{output}-linkage/linkage.csv", dtype=str, keep_default_na=False)
    manifest = read_manifest(output / "manifest.csv").merge(linkage[["id", "patient"]], on="id", suffixes=("", "_raw"))
    return manifest, pd.read_csv(output / "summary.csv", dtype=str, keep_default_na=False)


def write(folder, hu=HU, spacing=SPACING, **options):
    return write_ct_series(folder, hu, spacing, **options)
