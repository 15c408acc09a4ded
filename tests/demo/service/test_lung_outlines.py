"""Outlines of the lungs over the X-ray: they agree for a chest and its own DRR, and missing lungs are said."""

import numpy as np
import torch
from PIL import Image

from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import unknown_pose
from dataset.phantom.render import render_phantom
from demo.service.lung_outlines import STAMP, draw_lungs
from evaluation.generation.xray_inputs import GeneratorInput
from evaluation.scoring.film_lungs import COLOURS, SIDE, dice, lungs_on_xray

EXTENT = (320.0, 256.0, 352.0)


def chest() -> tuple[torch.Tensor, GeneratorInput]:
    """A phantom of 64 voxels a side and its DRR."""
    phantom = render_phantom(3, size=(64, 64, 64), extent=EXTENT)
    hu = torch.as_tensor(phantom.hu_plain, dtype=torch.float32)
    xray = render_xray(hu, phantom.spacing, DrrSettings().poses(EXTENT), (128, 128))
    given = GeneratorInput(xray, unknown_pose(1, ["PA"]), EXTENT, original=xray[0])
    return hu, given


def test_a_chest_and_its_own_drr_have_the_same_lungs(tmp_path, monkeypatch):
    hu, given = chest()
    volume, xray = lungs_on_xray(hu[None], given, None)
    assert volume.shape == xray.shape == (SIDE, SIDE) and dice(volume, xray) > 0.85
    paths = tmp_path / "lungs.png", tmp_path / "given_lungs.png"
    assert STAMP[0].startswith("given X-ray; red: lungs of the synthetic") and STAMP[-1] == "not for diagnosis"
    monkeypatch.setattr("evaluation.visualization.slices.mark_synthetic", None)  # a film is not synthetic
    line = draw_lungs(*paths, hu[None], given, Image.new("RGB", (384, 512)), None)
    assert f"Dice {dice(volume, xray):.2f}" in line
    for path, size in zip(paths, ((512, 512), (512, 384)), strict=True):
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert picture.shape[:2] == size
        stamp = picture[-30:].astype(int)
        assert (stamp[..., 0] - stamp[..., 2] > 120).sum() > 200  # yellow on black
        for name in ("volume", "network"):
            assert (picture == COLOURS[name]).all(axis=-1).sum() > 500


def test_lungs_follow_the_alignment():
    hu, given = chest()
    target = (0.1, 0.7, 0.2, 0.8)
    notes = {"alignment": {"align": "lungs", "found": (0.1, 0.9, 0.1, 0.9), "target": target}}
    moved = GeneratorInput(given.xray, given.pose, given.extent, notes=notes, original=given.original)
    (volume, before), (same, after) = (lungs_on_xray(hu[None], one, None) for one in (given, moved))
    np.testing.assert_array_equal(volume, same)  # the volume is in the frame of the aligned X-ray already
    edges = [np.flatnonzero(mask.any(axis=1))[[0, -1]] / SIDE for mask in (before, after)]
    np.testing.assert_allclose(edges[1], 0.1 + (edges[0] - 0.1) * 0.75, atol=0.02)


def test_missing_lungs_are_said(tmp_path):
    _, given = chest()
    line = draw_lungs(
        tmp_path / "a.png", tmp_path / "b.png", torch.zeros(1, 16, 16, 16), given, Image.new("RGB", (64, 64)), None
    )
    assert line.startswith("No lungs found in the volume,")
