"""Pictures: orientation, proportions, the synthetic mark, and frames."""

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_fakes import SPACING, FakePipeline, chest_world, oracle, protocol
from PIL import Image

from dataset.imaging.hu_window import Window
from evaluation.figures import write_case_figures
from evaluation.generation.sample import Sampling
from evaluation.scoring.evaluation_pictures import write_pictures
from evaluation.visualization import sheets
from evaluation.visualization import slices as pictures
from evaluation.visualization.evidence import COLOURS, evidence_colours, evidence_tile, legend_picture

DARK = torch.full((24, 24, 24), -1000.0)


def accent_pixels(image: Image.Image) -> int:
    """Pixels in the colour of the synthetic mark."""
    array = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(array - np.array(pictures.ACCENT)).sum(axis=2) < 120).sum())


@pytest.mark.parametrize("plane", pictures.PLANES)
def test_every_picture_of_a_generated_volume_carries_the_mark(plane):
    assert accent_pixels(pictures.tile(DARK, plane, SPACING, kind="generated")) > 100
    assert accent_pixels(pictures.tile(DARK, plane, SPACING, kind="error")) > 100
    assert accent_pixels(pictures.tile(DARK, plane, SPACING)) == 0
    assert accent_pixels(pictures.mark_synthetic(Image.new("RGB", (200, 100)))) > 100


def test_evidence_is_orange_where_invented_blue_where_determined_and_grey_where_undefined():
    share = torch.full((24, 24, 24), torch.nan)
    share[:, :, 8:16], share[:, :, 16:] = 0.0, 1.0
    picture = np.asarray(evidence_tile(torch.full((24, 24, 24), -250.0), share, "coronal", SPACING)).astype(int)
    row = picture[picture.shape[0] // 3]
    right, middle, left = (row[int(x * len(row))] for x in (0.2, 0.5, 0.8))  # the patient's right is on the left
    assert np.ptp(right) < 3 and middle[0] > middle[2] + 60 and left[2] > left[0] + 60
    assert [tuple(evidence_colours(np.array(place))) for place, _ in COLOURS] == [colour for _, colour in COLOURS]
    assert legend_picture().width < 1900  # of a sheet


def test_the_mark_is_at_the_lower_edge():
    marked = np.asarray(pictures.tile(DARK, "coronal", SPACING, kind="generated")).astype(int)
    plain = np.asarray(pictures.tile(DARK, "coronal", SPACING)).astype(int)
    changed = np.flatnonzero(np.abs(marked - plain).sum(axis=(1, 2)))
    assert changed.min() > 0.8 * marked.shape[0] and changed.max() >= marked.shape[0] - 4


def test_superior_is_up_and_the_patients_right_is_left():
    volume = DARK.clone()
    volume[18:, :, :6] = 500.0  # superior, on the patient's right
    tile = np.asarray(pictures.tile(volume, "coronal", SPACING).convert("L")).astype(float)
    rows, columns = tile.shape
    quarters = {
        "up left": tile[4 : rows // 4, 20 : columns // 4].mean(),
        "up right": tile[4 : rows // 4, -columns // 4 :].mean(),
        "down left": tile[-rows // 4 :, 20 : columns // 4].mean(),
    }
    assert quarters["up left"] > 200 and quarters["up right"] < 60 and quarters["down left"] < 60


def test_proportions_are_those_in_mm():
    image = pictures.tile(torch.zeros(10, 40, 20), "sagittal", (10.0, 1.0, 2.0), size=200)
    assert image.size == (80, 200)  # 40 mm anterior to posterior, 100 mm high
    assert pictures.tile(torch.zeros(10, 40, 20), "axial", (10.0, 1.0, 2.0), size=200).size == (80, 80)


def test_colours_of_the_error_show_its_sign():
    high = np.asarray(pictures.tile(torch.full((8, 8, 8), 400.0), "axial", SPACING, kind="error"))[20, 40]
    low = np.asarray(pictures.tile(torch.full((8, 8, 8), -400.0), "axial", SPACING, kind="error"))[20, 40]
    assert high[0] > high[2] + 50 and low[2] > low[0] + 50


def test_display_window_stays_inside_the_window_of_the_model():
    assert pictures.display_window(Window(-200.0, 500.0)) == Window(-200.0, 500.0)
    assert pictures.display_window(Window(-1000.0, 1000.0)) == pictures.DISPLAY_HU
    assert pictures.display_window(Window(600.0, 900.0)) == Window(600.0, 900.0)


def test_sheet_has_a_row_per_case_and_is_not_blank():
    cases = [chest_world(3, seed=0).case(i) for i in range(3)]
    pairs = [(case["xray"][0], case["ct"].float(), case["ct"].float() + 100.0) for case in cases]
    shown = [
        sheets.CasePicture("case", *pair, tuple(case["spacing"])) for pair, case in zip(pairs, cases, strict=True)
    ]
    drawn = [sheets.case_sheet(shown[:n], Window(-1000.0, 1000.0)) for n in (1, 3)]
    assert drawn[1].width == drawn[0].width > 9 * 100
    assert drawn[1].height > 2.5 * (drawn[0].height - 60)
    assert np.asarray(drawn[1].convert("L")).std() > 30
    assert accent_pixels(drawn[1]) > 3 * 6 * 100  # six tiles of each row are made from a generated volume


def test_the_error_of_equal_volumes_is_white_up_to_the_ends_of_the_window_of_the_model(monkeypatch, tmp_path):
    errors, drawn = [], sheets.tile

    def tile(volume, *arguments, **options):
        errors.extend([volume] if options.get("kind") == "error" else [])
        return drawn(volume, *arguments, **options)

    monkeypatch.setattr(sheets, "tile", tile)
    cases = chest_world(1, seed=0)
    cases.case(0)["ct"][8:12], cases.case(0)["ct"][12:] = 900, 3000  # grey levels end at 500 HU, the model at 1000
    pipeline = FakePipeline(oracle(cases), protocol(), noise=0.0)
    generated = cases.case(0)["ct"][None].float().clamp(-1000.0, 1000.0)
    scores = pd.DataFrame({"method": ["model"], "psnr": [100.0]})
    write_pictures(tmp_path, cases, ["case_0"], generated, scores, pipeline.window, nifti=0)
    write_case_figures(pipeline, cases, tmp_path, 1, Sampling(1))
    assert len(errors) == 6 and not torch.stack(errors).any()


def test_gif_has_a_frame_per_slice_each_with_the_mark(tmp_path):
    case = chest_world(1, seed=0).case(0)
    frames = sheets.case_frames(case["xray"][0].float(), case["ct"], DARK, SPACING)
    assert len(frames) == case["ct"].shape[1]
    for frame in frames:  # the mark is below the generated volume only
        columns = frame.width * 2 // 3
        assert accent_pixels(frame.crop((columns, 0, frame.width, frame.height))) > 100
        assert accent_pixels(frame.crop((0, 0, columns, frame.height))) == 0
    sheets.save_gif(tmp_path / "a.gif", frames)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == len(frames)
        gif.seek(12)
        strip = np.asarray(gif.convert("L"))[-45:, gif.width * 2 // 3 :]
    assert strip.max() > 150


def test_frames_through_a_constant_volume_are_all_kept(tmp_path):
    frames = sheets.volume_frames(DARK, SPACING)
    sheets.save_gif(tmp_path / "b.gif", frames)
    with Image.open(tmp_path / "b.gif") as gif:
        assert gif.n_frames == 24
    assert all(accent_pixels(frame) > 300 for frame in frames)


def test_planes_picture_shows_xray_and_three_planes():
    case = chest_world(1, seed=0).case(0)
    image = sheets.planes_picture(case["xray"][0], case["ct"].float(), SPACING)
    assert image.width > 3 * 250 and np.asarray(image.convert("L")).std() > 30
    assert accent_pixels(image) > 300


def test_unknown_pixels_are_of_one_grey():
    xray = torch.rand(32, 32)
    xray[:, 20:] = torch.nan
    grey = pictures.xray_grey(xray)
    assert (grey[:, 20:] == pictures.UNKNOWN_GREY).all() and (
        grey[:, :20] == (xray[:, :20] * 255).byte().numpy()
    ).all()
    colours = pictures.error_colours((xray - 0.5).numpy(), 0.5)
    assert (colours[:, 20:] == pictures.UNKNOWN_GREY).all() and np.ptp(colours[:, :20]) > 100
