"""The second view has to be a lateral, by the header, by the name and by the picture."""

import numpy as np
import pytest
import torch
from evaluation_fakes import FakePipeline, protocol
from PIL import Image
from radiograph_files import save_radiograph

from common.errors import UserError
from common.files import ROOT
from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import extent_mm
from dataset.phantom.render import render_phantom
from evaluation.generation.xray_inputs import read_inputs

SIZE = (96, 96)


@pytest.fixture(scope="module")
def drrs():
    """Frontals and laterals of phantoms, as in training."""
    found = []
    for seed in range(20000900, 20000905):
        phantom = render_phantom(seed, size=(64, 64, 64))
        poses = DrrSettings().poses(extent_mm(phantom.hu.shape, phantom.spacing), 2)
        found.append(render_xray(torch.from_numpy(phantom.hu_plain), phantom.spacing, poses, SIZE).numpy())
    return found


def save(path, image):
    Image.fromarray((image * 255).astype(np.uint8)).save(path)
    return path


def read(*files, **options):
    return read_inputs([files], FakePipeline(None, protocol() | {"views": 2, "xray_size": list(SIZE)}), **options)


@pytest.mark.frontal_check
def test_a_frontal_as_second_view_is_refused_by_its_picture(drrs, tmp_path):
    film = ROOT / "assets" / "films" / "hannover_b9673e89.png"
    for frontal, lateral in drrs:
        first, second = save(tmp_path / "a.png", frontal), save(tmp_path / "b.png", lateral)
        assert read(first, second)[0].notes["views"] == ["frontal", "lateral"]
        for given in (first, second):
            with pytest.raises(UserError, match=f"{film.name}: it looks like a frontal .*allow_any_picture=true"):
                read(given, film)
        assert len(read(first, film, allow_any_picture=True)[0].xray) == 2


def test_a_header_counts_more_than_the_picture(drrs, tmp_path):
    first = save(tmp_path / "a.png", drrs[0][0])
    stored = np.rint(drrs[0][0] * 4095)
    assert len(read(first, save_radiograph(tmp_path / "b.dcm", stored, view="LL"))[0].xray) == 2
    with pytest.raises(UserError, match="c.dcm: it looks like a frontal"):
        read(first, save_radiograph(tmp_path / "c.dcm", stored, view="", orientation=None))


def test_names_in_the_wrong_order_are_refused(drrs, tmp_path):
    frontal, lateral = drrs[0]
    names = ("x_pa.png", "x_lat.png", "y.png")
    files = [save(tmp_path / name, image) for name, image in zip(names, (frontal, lateral, lateral), strict=True)]
    for options in ({}, {"allow_any_picture": True}):
        with pytest.raises(UserError, match="x_lat.png: lateral by its name in the place of the frontal; give"):
            read(files[1], files[0], **options)
    assert len(read(files[0], files[1])[0].xray) == 2
    assert len(read(files[0], save_radiograph(tmp_path / "z_pa.dcm", view="LL"))[0].xray) == 2


def test_an_oblique_is_refused_in_both_places(drrs, tmp_path):
    frontal = save(tmp_path / "a.png", drrs[0][0])
    oblique = save_radiograph(tmp_path / "b.dcm", view="LAO")
    for files, wanted in (((oblique, frontal), "frontal"), ((frontal, oblique), "lateral")):
        with pytest.raises(UserError, match=f"b.dcm: an oblique, decubitus or lordotic view; give a {wanted}"):
            read(*files)
