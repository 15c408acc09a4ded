"""The lesion benchmark and the authenticity test as commands, on a folder of a user's CTs and a small checkpoint."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from chest_files import save_nifti, thorax
from demo_parts import small_pipeline
from folder_sources import film
from forked_command import run_command

from dataset.manifest.table import make_rows, write_manifest
from dataset.sources.drawn_lesions import SCAN_LESIONS
from ddpm.checkpoint.write import export_pipeline
from evaluation.authenticity.memorisation import GROUPS
from evaluation.detectability.report import METHODS

pytestmark = pytest.mark.slow
SPLITS = {"a": "train", "b": "train", "c": "val", "d": "test", "e": "test"}
FAST = ["sampler.steps=2", "batch_size=64", "device=cpu", "dataset.prepare_workers=0"]


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    """`data` with a CT of each patient and a manifest, and `small.safetensors`."""
    folder = tmp_path_factory.mktemp("user")
    for name in SPLITS:
        save_nifti(folder / "data" / f"{name}.nii.gz", thorax((36, 34, 40), seed=ord(name)), spacing=(8.0, 8.0, 8.0))
    write_manifest(table(), folder / "data" / "manifest.csv")
    export_pipeline(small_pipeline(), folder / "small.safetensors", torch.float32)
    return folder


def table(**columns) -> pd.DataFrame:
    rows = ({"id": n, "patient": n, "ct": f"{n}.nii.gz", "split": split} for n, split in SPLITS.items())
    return make_rows([{**row, **columns} for row in rows])


def run(user: Path, name: str, *options: str) -> subprocess.CompletedProcess:
    given = ["checkpoint=small.safetensors", "dataset=default", "dataset.root_dir=data", *FAST]
    return run_command(f"evaluation/{name}.py", *given, *options, cwd=user, env={"OMP_NUM_THREADS": "1"})


def refused(user: Path, name: str, *options: str) -> str:
    """The one line with which a command ends, without results."""
    before = set((user / "outputs").glob(f"{name}/*"))
    done = run(user, name, *options)
    (line,) = [one for one in done.stderr.strip().splitlines() if not one.startswith(WARNINGS)]
    assert done.returncode == 1 and set((user / "outputs").glob(f"{name}/*")) == before
    return line


WARNINGS = ("the checkpoint was trained on", "checkpoint=small.safetensors: the protocol has no patients")


def test_lesions_writes_a_row_of_each_lesion_method_and_place(user):
    done = run(user, "lesions", "cases=1", "places=4", "samples=2")
    assert done.returncode == 0, done.stderr
    folder = user / "outputs" / "lesions" / "latest"
    rows = pd.read_csv(folder / "lesions.csv")
    assert set(rows["patient"]) == {"d"} and set(rows["lesion"]) == set(SCAN_LESIONS)
    assert set(rows["method"]) == set(METHODS) - {"regression"}
    found = rows[rows["lesion"] == "nodule_20"].groupby(["method", "present"]).size()
    assert (found == 4).all() and len(found) == 2 * 5  # at each place with and without
    assert (folder / "lesions.md").read_text().strip() in done.stdout and (folder / "metrics.json").is_file()


def test_memorisation_writes_a_row_of_each_group_and_patient(user):
    done = run(user, "memorisation")
    assert done.returncode == 0, done.stderr
    folder = user / "outputs" / "memorisation" / "latest"
    rows = pd.read_csv(folder / "memorisation.csv")
    patients = {group: set(part["patient"]) for group, part in rows.groupby("group")}
    assert patients == {group: {"a", "b"} if group.startswith("copies") else {"d", "e"} for group in GROUPS}
    assert set(rows["nearest"]) <= {"a", "b"} and rows["ratio"].between(0, 1).all()
    assert "no verdict: fewer than 6 unseen patients" in done.stdout and (folder / "memorisation.png").is_file()


def test_refusals_are_one_line(user):
    assert "places=3: give at least 4 places" in refused(user, "lesions", "cases=1", "places=3")
    assert "split=train: choose test or val" in refused(user, "memorisation", "split=train")
    film(user / "data" / "film.png")
    write_manifest(table(xray="film.png", view="PA"), user / "data" / "manifest.csv")
    try:
        assert "its test cases have X-ray files" in refused(user, "lesions")
    finally:
        write_manifest(table(), user / "data" / "manifest.csv")
