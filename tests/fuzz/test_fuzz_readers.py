"""Readers return a valid image, volume or table for any bytes, or raise UserError."""

import warnings

import numpy as np
import pytest
from fuzz_files import LONG, damaged, kept, refused_or
from fuzz_seeds import arrays, films, images, nifti, slices
from hypothesis import given
from hypothesis import strategies as st

from dataset.io.ct import read_volume
from dataset.io.xray import read_xray, read_xray_image
from dataset.manifest.table import COLUMNS, read_manifest

pytestmark = pytest.mark.filterwarnings("ignore")
MANIFEST = (
    "id,patient,ct,xray,view,label,split,fold,age\n"
    "a,p1,a.nii.gz,a.png;b.png,PA;lateral,1,train,0,61\n"
    "b,p2,b.nii.gz,,,0,val,1,40\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def picture(path):
    image = read_xray(path, (32, 32))
    known = image[~image.isnan()]  # the others are unknown pixels
    assert image.shape == (32, 32) and known.min() >= 0 and known.max() <= 1
    return image


def volume(path):
    found = read_volume(path)
    assert found.hu.ndim == 3 and np.isfinite(found.hu).all() and found.hu.std() > 0
    assert all(0.05 <= s <= 50.0 for s in found.spacing) and np.isfinite(found.affine).all()
    return found


def table(path):
    rows = read_manifest(path)
    assert set(COLUMNS) <= set(rows.columns) and rows["id"].is_unique and len(rows)
    assert set(rows["label"]) <= {-1, 0, 1}
    return rows


@LONG
@given(st.data(), st.sampled_from((".png", ".jpg", ".bin")))
def test_images(folder, data, ending):
    refused_or(picture, folder / f"film{ending}", data.draw(damaged(*images(), header=64)))


@LONG
@given(st.data())
def test_arrays(folder, data):
    refused_or(picture, folder / "film.npy", data.draw(damaged(*arrays(), header=128)))


@LONG
@given(st.data())
def test_radiographs(folder, data):
    found = refused_or(picture, folder / "film.dcm", data.draw(damaged(*films(folder))))
    if found is not None:
        assert read_xray_image(folder / "film.dcm").view in ("", "PA", "AP", "lateral", "other")


@LONG
@given(st.data(), st.sampled_from((".nii", ".nii.gz")))
def test_nifti(folder, data, ending):
    content = data.draw(damaged(nifti(folder, ending), header=352))
    refused_or(volume, folder / f"ct{ending}", content)
    refused_or(picture, folder / f"ct{ending}")


@LONG
@given(st.data())
def test_series(folder, data):
    home = folder / "series"
    home.mkdir(exist_ok=True)
    good = slices(folder)
    which = data.draw(st.sets(st.integers(0, len(good) - 1), min_size=1))
    for number, content in enumerate(good):
        changed = data.draw(damaged(content)) if number in which else content
        (home / f"{number}.dcm").write_bytes(changed)
    refused_or(volume, home)


@LONG
@given(st.data())
def test_manifests(folder, data):
    refused_or(table, folder / "manifest.csv", data.draw(damaged(MANIFEST.encode())))


@LONG
@given(st.text(), st.lists(st.sampled_from(MANIFEST.split("\n")[0].split(",")), min_size=1, max_size=12))
def test_manifests_of_any_text(folder, cell, columns):
    text = ",".join(columns) + "\n" + ",".join([cell.replace("\r", "")] * len(columns)) + "\n"
    refused_or(table, folder / "manifest.csv", text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("file", kept("readers"), ids=lambda file: file.name)
def test_regressions(file):
    read = {".csv": table, ".nii": volume, ".gz": volume}.get(file.suffix, picture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused_or(read, file)
        if read is volume:
            refused_or(picture, file)
