"""Preparation of a training set killed (-9) at random moments and within the writing of a file, and started again."""

import random
import shutil

import numpy as np
import pytest
from chest_files import save_nifti
from fault_runs import contents
from PIL import Image
from prepare_runs import HU, OTHER, SPACING, write

KILLS = [pytest.param(2, marks=pytest.mark.slow), pytest.param(12, marks=pytest.mark.faults)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six patients: DICOM series and NIfTI, one with a film."""
    tree = tmp_path_factory.mktemp("hospital") / "exports"
    for i in range(4):
        write(tree / f"p{i}", OTHER if i % 2 else HU, patient=f"PATIENT{i}", study_uid=f"1.2.826.{i + 1}")
    for i in range(2):
        (tree / f"n{i}").mkdir()
        save_nifti(tree / f"n{i}" / f"scan{i}.nii.gz", HU + i, SPACING, (0.0, 0.0, 0.0), "RAS")
    grey = np.random.default_rng(0).integers(0, 65535, (40, 30)).astype(np.uint16)
    Image.fromarray(grey).save(tree / "n0" / "scan0.png")
    return tree


@pytest.fixture(scope="module")
def prepare(server, tree):
    """Starts the preparation; the key of the pseudonyms is that of the first one."""

    def start(place, output=None, **faults):
        folders = [f"source={tree}", f"output={output or place / 'set'}"]
        words = [*folders, "workers=0", "spacing=[5,5,5]", "crop_box=whole"]
        return server.start("dataset/prepare.py", *words, place=place, **faults)

    return start


@pytest.fixture(scope="module")
def whole(prepare, tmp_path_factory):
    """A set that nothing disturbed."""
    place = tmp_path_factory.mktemp("prepared")
    prepare(place).fine()
    return place


def written(place) -> dict[str, bytes]:
    """The files of a set, without the log, whose lines hold times."""
    return {name: data for name, data in contents(place / "set").items() if name != "prepare.log"}


@pytest.mark.parametrize("kills", KILLS)
def test_killed_at_random_moments(prepare, whole, tmp_path, kills):
    (tmp_path / "set-linkage").mkdir(mode=0o700)
    for key in (whole / "set-linkage").iterdir():
        if key.suffix != ".csv":
            shutil.copy2(key, tmp_path / "set-linkage")
    chance, landed, expected = random.Random(f"preparation {kills}"), 0, written(whole)
    while landed < kills:
        if landed % 2:  # at any time from the start of the process on
            command = prepare(tmp_path)
            landed += command.killed_after(chance.uniform(0.2, 2.0))
        else:  # within the writing of one of its first files: tables, volumes, films, records
            moment = chance.choice(["half_written", "before_sync", "before_rename", "after_rename"])
            command = prepare(tmp_path, kill_at_file={"moment": moment, "count": chance.randint(1, 6)})
            landed += command.wait() == -9
        for name, data in written(tmp_path).items():  # what has its final name is whole
            assert name.endswith(".csv") or data == expected[name], name
        if command.code == 0:
            shutil.rmtree(tmp_path / "set")
    prepare(tmp_path).fine()
    assert written(tmp_path) == expected
