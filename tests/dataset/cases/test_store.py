"""Cases are built once, again after a change or damage, and give the same samples."""

import os

import numpy as np
import pandas as pd
import pytest
import torch

from common.errors import UserError
from common.files import atomic_path
from dataset.cases.case import case_key, pack_case
from dataset.cases.case_dataset import CaseDataset
from dataset.cases.store import prepare_cases, read_case, stored
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import project
from dataset.imaging.hu_window import Window
from dataset.manifest.table import make_rows
from dataset.xray.augmentation import AppearanceChanges, GeometryChanges, XrayAugmentation
from dataset.xray.options import XrayOptions

SIZE, SPACING = (8, 9, 10), (3.0, 2.0, 1.5)
EXTENT = tuple(n * s for n, s in zip(SIZE, SPACING, strict=True))


class CountingSource:
    """Cases whose HU are their index; notes every build in a file, since builds happen in other processes."""

    name = "counting"
    xray_options = XrayOptions()

    def __init__(self, log, count=8, shade=0, bad=()):
        self.rows = make_rows({"id": f"c{i}", "patient": f"p{i}", "split": "train"} for i in range(count))
        self.log, self.shade, self.bad = log, shade, bad

    def missing(self):
        return []

    def home(self):
        return {}

    def key(self, row):
        return case_key({"id": row["id"], "shade": self.shade})

    def build(self, row):
        if row["id"] in self.bad:
            raise UserError(f"{row['id']}.nii.gz: damaged; export it again")
        with open(self.log, "a") as file:
            file.write(f"{row['id']} {os.getpid()}\n")
        hu = torch.full(SIZE, float(row["id"][1:]) + self.shade)
        return pack_case(hu, torch.rand(1, 4, 4), DrrSettings().poses(EXTENT, 1), SPACING, (1.0, 2.0, 3.0))

    def describe(self):
        return {}

    def builds(self):
        return self.log.read_text().split("\n")[:-1] if self.log.exists() else []


@pytest.mark.parametrize("workers", [0, 2])
def test_only_what_is_missing_is_built(tmp_path, workers):
    source = CountingSource(tmp_path / "log")
    paths = prepare_cases(source, tmp_path / "cache", workers)
    assert len(source.builds()) == 8
    assert len({line.split()[1] for line in source.builds()} - {str(os.getpid())}) == workers
    paths[3].unlink()
    assert prepare_cases(source, tmp_path / "cache", workers) == paths
    assert [line.split()[0] for line in source.builds()[8:]] == ["c3"]
    assert [int(read_case(p)["ct"][0, 0, 0]) for p in paths] == list(range(8))
    assert not list((tmp_path / "cache").rglob(".tmp*"))


def test_another_setting_has_another_case_file(tmp_path):
    first = prepare_cases(CountingSource(tmp_path / "log"), tmp_path / "cache", 0)
    second = prepare_cases(CountingSource(tmp_path / "log", shade=100), tmp_path / "cache", 0)
    assert not set(first) & set(second)
    assert int(read_case(second[0])["ct"].max()) == 100 and int(read_case(first[0])["ct"].max()) == 0


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:20], lambda b: b"", lambda b: b"\xff" * 50])
def test_a_damaged_case_is_built_again(tmp_path, damage, caplog):
    source = CountingSource(tmp_path / "log")
    paths = prepare_cases(source, tmp_path / "cache", 0)
    paths[2].write_bytes(damage(paths[2].read_bytes()))
    with pytest.raises(UserError, match=f"{paths[2].name}.*delete it"):
        read_case(paths[2])
    prepare_cases(source, tmp_path / "cache", 0)
    assert int(read_case(paths[2])["ct"].max()) == 2 and "damaged" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_volume_stops_with_its_own_line_and_keeps_the_others(tmp_path, workers):
    source = CountingSource(tmp_path / "log", bad=("c5",))
    with pytest.raises(UserError) as caught:
        prepare_cases(source, tmp_path / "cache", workers)
    assert str(caught.value) == "c5.nii.gz: damaged; export it again"
    source.bad = ()
    built = len(source.builds())
    assert built >= 4
    prepare_cases(source, tmp_path / "cache", workers)
    assert len(source.builds()) == 8


def test_an_unwritable_cache_names_the_key(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="dataset.cache_dir"):
        prepare_cases(CountingSource(tmp_path / "log"), tmp_path / "cache", 0)


def test_pack_case_clips_hu_to_the_range_of_scanners():
    case = pack_case(torch.tensor([[[-2000.0, -1000.4, 5000.0]]]), torch.rand(2, 3, 3), torch.zeros(2, 9), SPACING)
    assert case["ct"].flatten().tolist() == [-1024, -1000, 3071] and case["ct"].dtype == torch.int16
    assert case["xray"].dtype == torch.float16 and case["pose"].shape == (2, 9)


def make_dataset(tmp_path, crop=None, window="wide", seed=0):
    generator = torch.Generator().manual_seed(0)
    paths = []
    for i in range(3):
        hu = torch.rand(SIZE, generator=generator) * 2400 - 1200
        case = pack_case(
            hu, torch.rand(2, 4, 4), DrrSettings().poses(EXTENT, 2), SPACING, label=1, labels=torch.ones(SIZE)
        )
        path = tmp_path / f"{i}.safetensors"
        from safetensors.torch import save_file

        save_file(case, path)
        paths.append(path)
    rows = pd.DataFrame({"id": ["a", "b", "c"], "label": [0, 1, -1]}, index=[5, 6, 7])
    return CaseDataset(paths, rows, window, crop, seed)


def test_an_item_has_the_shapes_types_and_ranges_promised(tmp_path):
    data = make_dataset(tmp_path)
    item = data[1]
    assert item["ct"].shape == (1, *SIZE) and item["ct"].dtype == torch.float32
    assert item["xray"].shape == (2, 1, 4, 4) and item["xray"].dtype == torch.float32
    assert item["pose"].shape == (2, 9) and item["spacing"].tolist() == list(SPACING)
    assert (item["id"], item["label"], item["index"], item["step"]) == ("b", 1, 1, -1)
    assert item["ct"].min() >= -1 and item["ct"].max() <= 1
    hu = data.case(1)["ct"].float().clamp(-1000, 1000)
    torch.testing.assert_close(Window.parse("wide").denormalise(item["ct"][0]), hu, atol=1e-3, rtol=0)
    assert stored(data.paths[1], "label") == 1 and stored(data.paths[1], "nothing") is None


def test_a_crop_depends_on_seed_step_and_index_alone(tmp_path):
    data, again = make_dataset(tmp_path, crop=[3, 4, 5]), make_dataset(tmp_path, crop=[3, 4, 5])
    for item in [(0, 0), (0, 1), (1, 0)]:
        torch.testing.assert_close(data[item]["ct"], again[item]["ct"], rtol=0, atol=0)
    crops = [data[(0, step)]["ct"] for step in range(8)]
    assert len({tuple(c.flatten().tolist()) for c in crops}) > 4
    other = make_dataset(tmp_path, crop=[3, 4, 5], seed=1)
    assert any(not torch.equal(data[(0, s)]["ct"], other[(0, s)]["ct"]) for s in range(4))
    assert data[0]["ct"].shape == (1, 3, 4, 5) and data[(0, 3)]["step"] == 3


def test_a_crop_takes_its_pose_along(tmp_path):
    whole, data = make_dataset(tmp_path)[0], make_dataset(tmp_path, crop=[4, 5, 5])
    for step in range(6):
        item = data[(0, step)]
        # where a voxel of the crop lands on the detector, computed from crop and moved pose, and from the whole
        places = (whole["ct"][0] == item["ct"][0, 1, 2, 3]).nonzero()
        voxel = next(p for p in places if p.tolist() != [])
        spacing = torch.tensor(SPACING)
        in_whole = (voxel + 0.5 - torch.tensor(SIZE) / 2) * spacing
        in_crop = (torch.tensor([1, 2, 3]) + 0.5 - torch.tensor([4, 5, 5]) / 2) * spacing
        if len(places) == 1:
            torch.testing.assert_close(
                project(in_crop, item["pose"][1]), project(in_whole, whole["pose"][1]), atol=1e-5, rtol=0
            )


def test_a_crop_larger_than_the_volume_is_refused(tmp_path):
    with pytest.raises(UserError, match="larger"):
        make_dataset(tmp_path, crop=[9, 4, 4])[0]


def test_atomic_path_leaves_the_old_file_when_the_block_fails(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_views_spread_over_half_a_turn_and_begin_with_the_frontal():
    np.testing.assert_allclose(DrrSettings().poses(EXTENT, 2)[:, 2], [0, 90])
    np.testing.assert_allclose(DrrSettings().poses(EXTENT, 3)[:, 2], [0, 60, 120])


def test_xrays_change_in_training_alone_and_the_same_way_again(tmp_path):
    plain, film = make_dataset(tmp_path), XrayOptions(XrayAugmentation(appearance=AppearanceChanges(noise=0.2)))
    data = CaseDataset(plain.paths, plain.rows, "wide", seed=3, xray_options=film)
    assert data.augments and not plain.augments
    still = data[1]["xray"]
    torch.testing.assert_close(still, plain[1]["xray"], rtol=0, atol=0)
    first, second = data[(1, 7)], data[(1, 8)]
    assert not torch.equal(first["xray"], still) and not torch.equal(first["xray"], second["xray"])
    assert not torch.equal(first["pose"], data[1]["pose"])
    again = CaseDataset(plain.paths, plain.rows, "wide", seed=3, xray_options=film).condition(1, 7)
    torch.testing.assert_close(again["xray"], first["xray"], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(again["pose"], first["pose"], rtol=0, atol=0)


def test_projecting_anew_is_given_the_volume_of_the_case(tmp_path):
    plain, seen = make_dataset(tmp_path), []

    def render(volume, poses, size, stream):
        assert stream == (data.seed, 0, 2)  # random words of the noise: of the training, the step and the case
        seen.append(volume)
        return torch.rand(len(poses), *size)

    film = XrayAugmentation(GeometryChanges(angle=3.0, reproject=True))
    data = CaseDataset(plain.paths, plain.rows, "wide", xray_options=XrayOptions(film, render=render))
    data.condition(2, 0)
    assert len(seen) == 2 and seen[0].spacing == SPACING  # two views
    np.testing.assert_array_equal(seen[0].hu, plain.case(2)["ct"].numpy())


def test_another_word_for_the_alignment_is_refused():
    with pytest.raises(UserError, match="dataset.align=lung: choose lungs or none"):
        XrayOptions(align="lung")
