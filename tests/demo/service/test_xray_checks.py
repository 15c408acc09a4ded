"""Warnings about X-rays: none for a frontal X-ray like those of training, the right one for all others."""

import nibabel as nib
import numpy as np
import pytest
import torch
from demo_parts import save_film
from PIL import Image
from radiograph_files import save_radiograph

from common.errors import UserError
from dataset.imaging.drr import render_xray
from dataset.imaging.geometry import view_pose
from dataset.phantom.render import render_phantom
from ddpm.checkpoint.load import load_pipeline
from demo.service.xray_checks import check_xray
from evaluation.generation.open_pipeline import PHANTOM_WEIGHTS

pytestmark = pytest.mark.frontal_check


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(PHANTOM_WEIGHTS)


@pytest.fixture(scope="module")
def phantoms():
    """Frontal and lateral X-rays of phantoms outside the training split."""
    found = {"PA": [], "lateral": []}
    for number in range(3):
        phantom = render_phantom(20000900 + number, size=(64, 64, 64))
        extent = tuple(n * s for n, s in zip(phantom.hu.shape, phantom.spacing, strict=True))
        for view, images in found.items():
            hu = torch.as_tensor(phantom.hu_plain, dtype=torch.float32)
            images.append(render_xray(hu, phantom.spacing, view_pose(extent, view)[None], (128, 128))[0].numpy())
    return found


def warnings_of(array, pipeline, folder, allow: bool = False) -> str:
    Image.fromarray((np.ascontiguousarray(array) * 255).astype(np.uint8)).save(folder / "x.png")
    return " | ".join(check_xray(folder / "x.png", pipeline, folder / "seen.png", allow_any_picture=allow).warnings)


def test_an_xray_like_those_of_training_has_no_warning(pipeline, phantoms, tmp_path):
    assert [warnings_of(image, pipeline, tmp_path) for image in phantoms["PA"]] == [""] * 3
    assert Image.open(tmp_path / "seen.png").size == (512, 512)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x: 1.0 - x, "inverted"),
        (lambda x: np.rot90(x, 1), "turned by 270°"),
        (lambda x: np.rot90(x, 2), "upside down"),
        (lambda x: np.rot90(x, 3), "turned by 90°"),
    ],
)
def test_inversion_and_rotation_are_refused_by_name(pipeline, phantoms, tmp_path, change, word):
    for image in phantoms["PA"]:
        with pytest.raises(UserError, match=f"looks {word}"):
            warnings_of(change(image), pipeline, tmp_path)
        assert f"looks {word}" in warnings_of(change(image), pipeline, tmp_path, allow=True)


def test_other_pictures_and_laterals_are_refused_unless_allowed(pipeline, phantoms, tmp_path):
    rng = np.random.default_rng(0)
    rows = np.add.outer(np.sin(np.arange(128) / 9), np.cos(np.arange(128) / 7)) / 4 + 0.5
    for array in (rng.uniform(size=(128, 128)), rows, np.tile(np.linspace(0, 1, 128), (128, 1)), *phantoms["lateral"]):
        with pytest.raises(UserError, match="does not look like a frontal chest .* allow_any_picture=true"):
            warnings_of(array, pipeline, tmp_path)
        allowed = warnings_of(array, pipeline, tmp_path, allow=True)
        assert "does not look like a frontal chest" in allowed and "unlike the training X-rays" in allowed


def test_a_colour_picture_is_refused_unless_allowed(pipeline, phantoms, tmp_path):
    grey = (phantoms["PA"][0] * 255).astype(np.uint8)
    Image.fromarray(np.stack([grey, grey // 2, grey], axis=-1)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="a colour image"):
        check_xray(tmp_path / "x.png", pipeline, tmp_path / "seen.png")
    assert check_xray(tmp_path / "x.png", pipeline, tmp_path / "seen.png", allow_any_picture=True).shown is not None


def test_a_lateral_by_its_header_has_a_warning_and_no_input(pipeline, tmp_path):
    checked = check_xray(save_radiograph(tmp_path / "x.dcm", view="LL"), pipeline, tmp_path / "seen.png")
    assert checked.warnings[0].startswith("the file says that it is a lateral") and (tmp_path / "seen.png").is_file()
    assert checked.shown is None


def test_an_inverted_dicom_is_converted_with_a_warning(pipeline, tmp_path):
    options = {"allow_any_picture": True}  # the test files show no chest
    plain = check_xray(save_radiograph(tmp_path / "a.dcm"), pipeline, tmp_path / "a.png", **options)
    inverted = save_radiograph(tmp_path / "b.dcm", photometric="MONOCHROME1")
    turned = check_xray(inverted, pipeline, tmp_path / "b.png", **options)
    assert turned.warnings[0].startswith("the file is inverted")
    assert not any(line.startswith("the file is inverted") for line in plain.warnings)


def test_the_side_is_assumed_where_the_file_does_not_say_it(pipeline, phantoms, tmp_path):
    """A valid Patient Orientation and the affine of a NIfTI say it; an invalid one and a picture do not."""
    options, orientations = {"align": "none", "allow_any_picture": True}, {}
    for name, value in (("valid", ["L", "F"]), ("invalid", ["L", "R"])):
        path = save_radiograph(tmp_path / f"{name}.dcm", orientation=value)
        orientations[name] = check_xray(path, pipeline, tmp_path / "seen.png", **options).orientation
    picture = save_film(tmp_path / "film.png")
    grey = np.asarray(Image.open(picture), dtype=np.float32).T[..., None]
    nib.save(nib.Nifti1Image(grey, np.diag([1.0, -1.0, -1.0, 1.0])), tmp_path / "mirrored.nii")
    for path in (picture, tmp_path / "mirrored.nii"):
        orientations[path.stem] = check_xray(path, pipeline, tmp_path / "seen.png", **options).orientation
    assert {name: "taken as displayed" in line for name, line in orientations.items()} == {
        "valid": False,
        "invalid": True,
        "film": True,
        "mirrored": False,
    }


def test_the_orientation_contains_view_and_alignment(pipeline, tmp_path):
    options = {"align": "none", "allow_any_picture": True}
    checked = check_xray(save_radiograph(tmp_path / "x.dcm", view="AP"), pipeline, tmp_path / "x.png", **options)
    assert checked.orientation.startswith("AP, from the file; not aligned; head up, the patient's right on the left")


@pytest.mark.nightly
def test_real_films_count_as_frontal_chests(pipeline, real_data, tmp_path):
    """The weights are of phantoms: films differ from training, some in the shape of the lungs; no other warning."""
    expected = ("unlike the training X-rays", "the X-ray was s")
    for film in sorted((real_data / "xray").glob("*.png")):
        warnings = check_xray(film, pipeline, tmp_path / "seen.png").warnings
        assert all(line.startswith(expected) for line in warnings), (film.name, warnings)
        inverted = warnings_of(1.0 - np.asarray(Image.open(film).convert("L")) / 255.0, pipeline, tmp_path, allow=True)
        assert "looks inverted" in inverted, film.name
