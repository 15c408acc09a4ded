"""Lungs on films: the projection undoes the alignment and the padding, and bad folders are refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_fakes import FakePipeline, chest_world, oracle, protocol
from PIL import Image

from common.errors import UserError
from dataset.imaging.geometry import unknown_pose
from dataset.io.xray import resize_xray, undo_resize
from dataset.xray.lung_alignment import LungMap
from evaluation.generation.sample import Sampling
from evaluation.generation.write_volumes import synthesize
from evaluation.generation.xray_inputs import GeneratorInput, read_inputs
from evaluation.scoring import film_lungs
from evaluation.scoring.film_lungs import dice, find_films, lungs_on_film

EXTENT = (320.0, 256.0, 352.0)


def body(shift: int = 0) -> torch.Tensor:
    """HU of a box of tissue with two lungs, 8 mm voxels."""
    hu = torch.full((40, 32, 44), -1000.0)
    hu[:, 4:28, 4:40] = 40.0
    hu[10:30, 8:24, 7:18] = hu[10:30, 8:24, 26:37] = -850.0
    return hu.roll(shift, dims=0)


def given(alignment: dict) -> GeneratorInput:
    return GeneratorInput(torch.zeros(1, 64, 64), unknown_pose(1, ["PA"]), EXTENT, notes={"alignment": alignment})


@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (70, 70)])
def test_resizing_is_undone(shape):
    smooth = torch.linspace(0.2, 0.8, shape[0])[:, None] * torch.linspace(0.5, 1.0, shape[1])
    back = undo_resize(resize_xray(smooth, (128, 128)), shape)
    assert back.shape == shape and (back - smooth)[4:-4, 4:-4].abs().max() < 0.02


def test_the_projection_lies_where_the_lungs_are():
    mask = lungs_on_film(body()[None], given({"align": "none"}), None, (200, 200))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # lungs of 160 mm height and 240 mm width; the field is 380 mm at the isocentre
    assert len(rows) / 200 == pytest.approx(160 / 380, abs=0.04)
    assert (columns[-1] - columns[0]) / 200 == pytest.approx(240 / 380, abs=0.04)
    assert not mask[:, 95:105].any()
    higher = lungs_on_film(body(3)[None], given({"align": "none"}), None, (200, 200))
    assert np.flatnonzero(higher.any(axis=1))[0] < rows[0] - 8


def test_thin_lung_in_front_of_the_mediastinum_is_not_drawn():
    """16 mm of lung between lungs of 128 mm are an eighth of the cavity, 48 mm are three eighths."""
    thin, deep = body(), body()
    thin[10:30, 8:10, 18:26] = -850.0
    deep[10:30, 8:14, 18:26] = -850.0
    shown = [lungs_on_film(hu[None], given({"align": "none"}), None, (200, 200)) for hu in (body(), thin, deep)]
    middle = [mask[70:130, 97:103].mean() for mask in shown]
    assert middle == pytest.approx([0.0, 0.0, 1.0], abs=0.05)
    assert dice(shown[0], shown[1]) > 0.97


def test_the_alignment_is_undone():
    """A film whose lungs lie at `found` shows the lungs of its volume there."""
    straight = lungs_on_film(body()[None], given({"align": "none"}), None, (256, 256))
    used = LungMap((0.2, 0.6, 0.1, 0.7), (0.25, 0.75, 0.2, 0.8))
    film = used.inverse.apply(torch.from_numpy(straight).float()).numpy() > 0.5
    mask = lungs_on_film(
        body()[None], given({"align": "lungs", "found": used.found, "target": used.target}), None, (256, 256)
    )
    assert dice(mask, film) > 0.97 and dice(mask, straight) < 0.9


def test_the_noise_of_a_film_is_that_of_generate(tmp_path, monkeypatch):
    cases, scored, sampling = chest_world(1, seed=0), [], Sampling(1, seed=3)
    save(tmp_path / "a.png", cases.case(0)["xray"][0].float().numpy() * 255)
    save(tmp_path / "a_lungs.png", np.full((24, 24), 255))
    monkeypatch.setattr(film_lungs, "lungs_on_film", lambda hu, *_: scored.append(hu) or np.ones((24, 24), bool))
    pipeline, films = FakePipeline(oracle(cases), protocol()), find_films(tmp_path)
    inputs = read_inputs([tmp_path / "a.png"], pipeline)
    film_lungs.score_films(pipeline, films, inputs, tmp_path / "out", sampling)
    (generated,) = synthesize(pipeline, inputs, sampling)
    assert torch.equal(scored[0].mean(dim=0), generated.mean)


def test_the_volumes_of_another_film_are_the_control(tmp_path, monkeypatch):
    """Of films a, b, c the control of a is c, of b is a, of c is b."""
    levels = (-600.0, -300.0, 0.0)
    for name in "abc":
        save(tmp_path / f"{name}.png", np.random.default_rng(0).integers(0, 255, (24, 24)))
        save(tmp_path / f"{name}_lungs.png", np.full((24, 24), 255))

    def rows_of(hu, *_):  # a mask of as many rows as the number of the film whose volumes these are
        return np.arange(24)[:, None].repeat(24, axis=1) <= levels.index(float(hu.mean()))

    monkeypatch.setattr(film_lungs, "lungs_on_film", rows_of)
    films = find_films(tmp_path)
    answers = iter(levels)
    pipeline = FakePipeline(lambda xray: torch.full((24, 24, 24), next(answers)), protocol(), noise=0.0)
    inputs = [GeneratorInput(torch.zeros(1, 24, 24), unknown_pose(1, ["PA"]), EXTENT) for _ in films]
    text = film_lungs.score_films(pipeline, films, inputs, tmp_path / "out", Sampling(1, seed=3))
    table = pd.read_csv(tmp_path / "out" / "films.csv").set_index("film")
    own = [table.loc[name, "volume_dice"] for name in "abc"]
    assert [table.loc[name, "other_dice"] for name in "abc"] == [own[2], own[0], own[1]]
    lines = text.splitlines()
    assert lines[0].startswith("lungs of the volumes of another film: median 0.")
    assert lines[-1].startswith("volume lungs: median 0.") and "; film mask: median 0." in lines[-1]


def save(path, array) -> None:
    Image.fromarray(array.astype(np.uint8)).save(path)


def test_folders_without_usable_masks_are_refused(tmp_path):
    film, mask = np.random.default_rng(0).integers(0, 255, (40, 50)), np.zeros((40, 50))
    with pytest.raises(UserError, match="no such folder"):
        find_films(tmp_path / "none")
    save(tmp_path / "a.png", film)
    with pytest.raises(UserError, match="no film with a mask; name masks <name>_lungs.png"):
        find_films(tmp_path)
    save(tmp_path / "a_lungs.png", mask)
    with pytest.raises(UserError, match="the mask is empty"):
        find_films(tmp_path)
    save(tmp_path / "a_lungs.png", np.full((40, 51), 255))
    with pytest.raises(UserError, match="a_lungs.png: 51x40 pixels, its film has 50x40"):
        find_films(tmp_path)
    mask[5:20, 5:20] = 255
    save(tmp_path / "a_lungs.png", mask)
    (found,) = find_films(tmp_path)
    assert found.name == "a" and found.lungs.sum() == 225
    save(tmp_path / "b_lungs.png", mask)
    with pytest.raises(UserError, match="its film b.png is missing"):
        find_films(tmp_path)
