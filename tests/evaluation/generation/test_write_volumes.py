"""From an X-ray file to CT files: written files, settings, seeds, views and alignment."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from evaluation_fakes import EXTENT, FakePipeline, chest_world, oracle, protocol
from PIL import Image
from radiograph_files import save_radiograph

from common.errors import UserError
from common.files import sha256
from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import VIEW_AZIMUTH, extent_mm, fill_unknown, make_pose
from dataset.imaging.lung_network import lung_box_in_image
from dataset.io.ct import read_volume
from dataset.io.nifti import write_nifti
from dataset.phantom.render import render_phantom
from dataset.xray.lung_alignment import expected_box
from ddpm.checkpoint.load import load_pipeline
from ddpm.conditioning.pose_regressor import PoseRegressor
from evaluation.generation.open_pipeline import PHANTOM_WEIGHTS
from evaluation.generation.sample import Sampling
from evaluation.generation.write_volumes import find_xrays, generate, synthesize
from evaluation.generation.xray_inputs import read_inputs
from evaluation.generation.xray_warnings import aligned_views

WITH_LUNG_BOX = {"xray_size": [96, 96], "lung_box": [0.3, 0.7, 0.2, 0.8, 0.25, 0.75]}


def save_image(path, xray: torch.Tensor):
    Image.fromarray((xray.float().numpy() * 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def chest(tmp_path):
    cases = chest_world(1, seed=0)
    path = save_image(tmp_path / "chest.png", cases.case(0)["xray"][0])
    return path, FakePipeline(oracle(cases), protocol())


def test_files_geometry_and_mark(chest, tmp_path):
    path, pipeline = chest
    written = generate(pipeline, [path], tmp_path / "out", Sampling(3, seed=1))
    names = {p.name for p in (tmp_path / "out").iterdir()}
    samples = {f"chest_sample_{n}_synthetic_ct.nii.gz" for n in (1, 2, 3)}
    endings = ("synthetic_ct.nii.gz", "synthetic_ct.png", "synthetic_spread.nii.gz")
    assert names == samples | {f"chest_{ending}" for ending in endings} | {"chest_settings.json"}
    image = nib.load(written[0])
    assert image.shape == (24, 24, 24)
    extent = [n * z for n, z in zip(image.shape, image.header.get_zooms(), strict=True)]
    assert extent == pytest.approx(EXTENT[::-1], rel=1e-4)
    assert b"SYNTHETIC" in image.header["descrip"].tobytes()
    drawn = np.stack([nib.load(tmp_path / "out" / name).get_fdata() for name in sorted(samples)])
    assert np.abs(image.get_fdata() - drawn.mean(axis=0)).max() <= 1.0  # both are rounded to whole HU
    spread = nib.load(tmp_path / "out" / "chest_synthetic_spread.nii.gz").get_fdata()
    assert np.abs(spread - drawn.std(axis=0, ddof=1)).max() <= 1.5  # independent samples


def test_the_spread_of_opposite_pairs_is_written_as_such(chest, tmp_path):
    path, pipeline = chest
    pipeline.describe = lambda: {"sampler": "Fake", "steps": 3, "guidance_scale": 1.0, "antithetic": True}
    generate(pipeline, [path], tmp_path, Sampling(2))
    drawn = [nib.load(tmp_path / f"chest_sample_{n}_synthetic_ct.nii.gz").get_fdata() for n in (1, 2)]
    spread = nib.load(tmp_path / "chest_synthetic_spread.nii.gz").get_fdata()
    assert np.abs(spread - np.abs(drawn[0] - drawn[1]) / 2.0).max() <= 1.5


def test_the_same_seed_gives_the_same_volume_under_any_name(chest, tmp_path):
    path, pipeline = chest
    other = tmp_path / "renamed.png"
    other.write_bytes(path.read_bytes())
    decoy = tmp_path / "decoy.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30), dtype=np.uint8)).save(decoy)
    first = generate(pipeline, [path], tmp_path / "a", Sampling(seed=4))[0]
    again = generate(pipeline, [decoy, other], tmp_path / "b", Sampling(seed=4))[1]
    different = generate(pipeline, [path], tmp_path / "c", Sampling(seed=5))[0]
    volumes = [nib.load(p).get_fdata() for p in (first, again, different)]
    assert np.array_equal(volumes[0], volumes[1])
    assert not np.array_equal(volumes[0], volumes[2])


def test_settings_record_seed_checkpoint_and_xray(chest, tmp_path):
    path, pipeline = chest
    generate(pipeline, [path], tmp_path / "out", Sampling(seed=9), checkpoint=path)
    settings = json.loads((tmp_path / "out" / "chest_settings.json").read_text())
    assert settings["seed"] == 9 and settings["samples"] == 1 and settings["sampler"] == "Fake"
    assert len(settings["xray"]["sha256"]) == len(settings["checkpoint"]["sha256"]) == 64
    assert "nominal" in settings["geometry"] and "SYNTHETIC" in settings["mark"]
    assert "reprojection_error" in settings and "not comparable" in settings["reprojection_note"]


def test_equal_stems_do_not_overwrite_each_other(chest, tmp_path):
    path, pipeline = chest
    Image.open(path).save(tmp_path / "chest.jpg", quality=95)
    written = generate(pipeline, [path, tmp_path / "chest.jpg"], tmp_path / "out")
    assert len(set(written)) == 2 and all(p.is_file() for p in written)


def test_earlier_files_are_refused_before_anything_is_sampled(chest, tmp_path):
    path, _ = chest
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other_settings.json").touch()
    (tmp_path / "other.png").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="other_settings.json: of an earlier run"):
        generate(FakePipeline(None, protocol()), [path, tmp_path / "other.png"], tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["other_settings.json"]


def test_missing_inputs_raise_user_error(tmp_path):
    cases = {None: "xray: missing", f"{tmp_path}/none.png": "no such file", ";": "no such", str(tmp_path): "no X-ray"}
    for value, line in cases.items():
        with pytest.raises(UserError, match=line):
            find_xrays(value)
    for name in ("b.png", "a.dcm", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in find_xrays(str(tmp_path))] == ["a.dcm", "b.png"]


def phantom_of_32():
    phantom = render_phantom(3, seed=4, size=(32, 32, 32))
    return phantom, extent_mm(phantom.hu.shape, phantom.spacing)


def two_views(tmp_path):
    """A frontal and a lateral of one phantom as files, rendered as in training."""
    phantom, extent = phantom_of_32()
    poses = DrrSettings().poses(extent, 2)
    xrays = render_xray(torch.tensor(phantom.hu_plain), phantom.spacing, poses, (96, 96))
    for name, xray in zip(("front", "side"), xrays, strict=True):
        save_image(tmp_path / f"{name}.png", xray)
    return extent, poses, xrays, f"{tmp_path}/front.png;{tmp_path}/side.png"


@pytest.mark.parametrize("align", ["none", "lungs"])
def test_two_views_keep_their_order_and_only_the_frontal_is_aligned(tmp_path, align):
    extent, poses, xrays, given = two_views(tmp_path)
    (files,) = find_xrays(given)
    assert [path.name for path in files] == ["front.png", "side.png"]
    pipeline = FakePipeline(None, protocol() | {"views": 2, "extent": extent, **WITH_LUNG_BOX})
    (given,) = read_inputs([files], pipeline, align)
    assert given.xray.shape == (2, 96, 96) and given.notes["alignment"]["align"] == align
    torch.testing.assert_close(fill_unknown(given.pose, extent), poses)
    assert (given.xray[1] - xrays[1]).abs().mean() < 0.01
    assert ((given.xray[0] - xrays[0]).abs().mean() < 0.01) == (align == "none")


def test_two_views_become_one_volume(tmp_path):
    *_, given = two_views(tmp_path)
    seen = []
    data = protocol() | {"views": 2, "xray_size": [96, 96]}
    pipeline = FakePipeline(lambda image: seen.append(image) or torch.zeros(24, 24, 24), data)
    (written,) = generate(pipeline, find_xrays(given), tmp_path / "out")
    assert seen[0].shape == (2, 1, 96, 96) and written.name == "front_synthetic_ct.nii.gz"
    xray = json.loads((tmp_path / "out" / "front_settings.json").read_text())["xray"]
    assert xray["file"] == given
    assert xray["sha256"] == ";".join(sha256(tmp_path / f"{name}.png") for name in ("front", "side"))


def test_a_wrong_number_of_views_raises(chest, tmp_path):
    path, pipeline = chest
    with pytest.raises(UserError, match=r"chest.png;.*chest.png: 2 views.*takes 1"):
        generate(pipeline, find_xrays(f"{path};{path}"), tmp_path / "out")
    with pytest.raises(UserError, match=r"none.png: no such file"):
        find_xrays(f"{path};{tmp_path / 'none.png'}")
    pipeline.protocol["views"] = 2
    for given in (path, tmp_path):
        with pytest.raises(UserError, match=r'chest.png: 1 view, .*takes 2.*xray="front.png;lateral.png"'):
            generate(pipeline, find_xrays(str(given)), tmp_path / "out")
    pipeline.protocol["views"] = 3
    with pytest.raises(UserError, match=r"checkpoint: .*3 views.*one or two"):
        generate(pipeline, find_xrays(f"{path};{path};{path}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_second_view_must_be_a_lateral(tmp_path):
    frontal, lateral = (save_radiograph(tmp_path / name, view=v) for name, v in (("a.dcm", "PA"), ("b.dcm", "LL")))
    pipeline = FakePipeline(None, protocol() | {"views": 2})
    (given,) = read_inputs([(frontal, lateral)], pipeline)
    assert given.pose[:, 2].tolist() == [VIEW_AZIMUTH["PA"], VIEW_AZIMUTH["lateral"]]
    for files, line in (((frontal, frontal), "a.dcm: .*PA.*second"), ((lateral, frontal), "b.dcm: a lateral")):
        with pytest.raises(UserError, match=line):
            read_inputs([files], pipeline)


def test_an_xray_is_aligned_by_its_lungs_and_the_settings_record_the_map(tmp_path):
    phantom, extent = phantom_of_32()
    xray = render_xray(torch.tensor(phantom.hu_plain), phantom.spacing, make_pose(extent)[None], (96, 96))[0]
    path, seen, settings = save_image(tmp_path / "chest.png", xray), [], {}
    data = protocol() | WITH_LUNG_BOX | {"align": "lungs"}
    pipeline = FakePipeline(lambda image: seen.append(image) or torch.zeros(24, 24, 24), data)
    for align in (None, "none"):
        generate(pipeline, [path], tmp_path / "out", align=align, overwrite=True)
        settings[align] = json.loads((tmp_path / "out" / "chest_settings.json").read_text())
    alignment = settings[None]["alignment"]
    assert alignment["align"] == "lungs" and settings["none"]["alignment"] == {"align": "none"}
    assert alignment["target"] == pytest.approx(expected_box(WITH_LUNG_BOX["lung_box"], EXTENT), abs=1e-3)
    top, bottom, left, right = lung_box_in_image(seen[0][0, 0]).tolist()
    assert [top, bottom, left, right] == pytest.approx(alignment["target"], abs=0.06)
    header = nib.load(tmp_path / "out" / "chest_synthetic_ct.nii.gz").header
    assert b"nominal spacing" in header["descrip"].tobytes()


def test_a_given_view_overrides_the_view_in_the_file(tmp_path):
    seen, both = {}, protocol() | {"xray_sources": {"drr": 1, "film": 1}}
    for name, own in (("ap", "AP"), ("pa", "PA"), ("none", "")):
        path = save_radiograph(tmp_path / f"{name}.dcm", view=own)
        for given in (None, "PA", "AP"):
            (found,) = read_inputs([path], FakePipeline(None, both), view=given)
            notes = found.notes["view"], found.notes["view_source"]
            seen[name, given] = (float(found.pose[0, 2]), *notes)
    pa, ap = VIEW_AZIMUTH["PA"], VIEW_AZIMUTH["AP"]
    assert seen["ap", None] == (ap, "AP", "from the file")
    assert seen["pa", None] == (pa, "PA", "from the file")
    assert seen["none", None] == (pa, "PA", "assumed")
    for name in ("ap", "pa", "none"):
        assert seen[name, "PA"] == (pa, "PA", "given") and seen[name, "AP"] == (ap, "AP", "given")


def test_a_view_that_training_did_not_show_has_the_pose_of_the_other(tmp_path):
    """After training on DRRs of one view alone the model knows no features along the rays of another."""
    path = save_radiograph(tmp_path / "film.dcm", view="AP")
    for trained, share, expected in (("PA", {}, "PA"), ("AP", {}, "AP"), ("PA", {"ap_share": 0.3}, "AP")):
        data = protocol() | {"drr": {"view": trained}, "xray_sources": {"drr": 2}} | share
        (found,) = read_inputs([path], FakePipeline(None, data))
        assert float(found.pose[0, 2]) == VIEW_AZIMUTH[expected] and found.notes["view"] == "AP"
        assert (found.notes.get("pose_view") == "PA") == (expected == "PA")
        assert any("taken as PA" in line for line in found.warnings) == (expected == "PA")


def test_an_xray_without_lungs_raises_on_request_and_warns_otherwise(chest, tmp_path):
    path, pipeline = chest
    with pytest.raises(UserError, match="contains no lung box"):
        generate(pipeline, [path], tmp_path / "out", align="lungs")
    pipeline.protocol["lung_box"] = [0.2, 0.8] * 3
    flat = save_image(tmp_path / "flat.png", torch.linspace(0.0, 0.7, 64).expand(64, 64))
    for options, line in (
        ("align=lungs", "flat.png: no lungs.*align=none"),
        ("align=all", "="),
        ("view=oblique", "="),
    ):
        with pytest.raises(UserError, match=line if line != "=" else options):
            generate(pipeline, [flat], tmp_path / "out", **dict([options.split("=")]))
    assert not (tmp_path / "out").exists()
    pipeline.protocol["xray_sources"] = {"drr": 3}
    (given,) = read_inputs([flat], pipeline)
    assert given.notes["alignment"] == {"align": "none", "reason": "no lungs found"}
    assert given.warnings == ["no lungs found: the X-ray is not aligned; check it"]


def test_a_generator_from_volumes_keeps_their_position(tmp_path):
    hu = torch.where(torch.rand(12, 14, 16) > 0.5, 40.0, -900.0)
    write_nifti(tmp_path / "early.nii.gz", hu, (4.0, 3.0, 2.0), (10.0, -20.0, 300.0), "original CT")
    seen = []
    data = protocol((12, 14, 16)) | {"input": "volume", "input_window": [-1000.0, 1000.0], "resampling": "resize"}
    data |= {"xray_size": [14, 16], "views": 12}
    pipeline = FakePipeline(lambda slices: seen.append(slices) or torch.zeros(12, 14, 16), data, noise=0.0)
    written = generate(pipeline, [tmp_path / "early.nii.gz"], tmp_path / "out")
    assert seen[0].shape == (12, 1, 14, 16)
    torch.testing.assert_close(seen[0][:, 0], (hu + 1000) / 2000, atol=1e-3, rtol=0)
    original, made = nib.load(tmp_path / "early.nii.gz"), nib.load(written[0])
    np.testing.assert_allclose(made.affine, original.affine, atol=1e-3)
    assert b"nominal" not in made.header["descrip"].tobytes()


def test_a_dicom_series_has_the_volume_and_affine_of_the_nifti(chest, tmp_path):
    path, pipeline = chest
    (result,) = synthesize(pipeline, read_inputs([path], pipeline), Sampling())
    written = result.save(tmp_path / "out", dicom=True)[0]
    nifti, series = read_volume(written), read_volume(tmp_path / "out" / "chest_synthetic_dicom")
    assert np.abs(nifti.hu - series.hu).max() <= 1.0
    np.testing.assert_allclose(series.affine, nifti.affine, atol=1e-3)


def test_an_xray_similar_to_training_is_aligned_only_on_request_or_as_in_training(tmp_path):
    pipeline = load_pipeline(PHANTOM_WEIGHTS)
    phantom = render_phantom(20000900, size=(64, 64, 64))
    pose = make_pose(extent_mm(phantom.hu.shape, phantom.spacing))[None]
    xray = render_xray(torch.tensor(phantom.hu_plain).float(), phantom.spacing, pose, (128, 128))[0]
    found = {}
    for name, image in (("own", xray), ("moved", xray.roll((-12, 14), (0, 1)))):
        save_image(tmp_path / f"{name}.png", image)
        for align in (None, "lungs"):
            (given,) = read_inputs([tmp_path / f"{name}.png"], pipeline, align)
            found[name, align] = given.notes["alignment"]["align"]
    assert list(found.values()) == ["none", "lungs", "lungs", "lungs"]
    pipeline.register_to_config(protocol={**pipeline.protocol, "align": "lungs"})
    (given,) = read_inputs([tmp_path / "own.png"], pipeline)
    assert given.notes["alignment"]["align"] == "lungs"


def test_an_xray_whose_pose_is_predicted_is_not_aligned_by_its_lungs(tmp_path):
    phantom, _ = phantom_of_32()
    xray = render_xray(torch.tensor(phantom.hu_plain), phantom.spacing, make_pose(EXTENT)[None], (96, 96))[0]
    path = save_image(tmp_path / "chest.png", xray)
    pipeline = FakePipeline(None, protocol() | WITH_LUNG_BOX | {"align": "none"})
    (aligned,) = read_inputs([path], pipeline)
    pipeline.pose_regressor = PoseRegressor()
    (unaligned,) = read_inputs([path], pipeline)
    assert aligned.notes["alignment"]["align"] == "lungs"
    assert unaligned.notes["alignment"] == {"align": "none"}


def test_settings_contain_the_predicted_pose(chest, tmp_path):
    path, pipeline = chest
    pipeline.pose_regressor = PoseRegressor()
    pipeline.pose_regressor.bias[:] = torch.tensor([0.0, 0.0, 1.0, 4.0, 0.0, -6.0]) / 2  # in each of two rounds
    generate(pipeline, [path], tmp_path / "out", align="none")
    (offsets,) = json.loads((tmp_path / "out" / "chest_settings.json").read_text())["pose_regressor"]
    expected = {"distance": 0, "azimuth": 0, "elevation": 1.0, "centre_d": 4.0, "centre_h": 0, "centre_w": -6.0}
    assert offsets == expected


def test_aligned_views_are_the_inputs_of_the_denoiser(chest):
    path, pipeline = chest
    (given,) = read_inputs([path], pipeline, "none")
    xray, pose = aligned_views(given, None)
    assert torch.equal(xray, given.xray) and torch.equal(pose, fill_unknown(given.pose, given.extent))
    regressor = PoseRegressor()
    regressor.bias[:, :, 2:4] = 2.0
    moved, turned = aligned_views(given, regressor)
    expected, _ = regressor(given.xray[None, :, None], pose[None], torch.ones(1, 1, dtype=torch.bool))
    assert torch.equal(moved, expected[0, :, 0]) and not torch.equal(moved, xray)
    assert float(turned[0, 3]) == 4.0
