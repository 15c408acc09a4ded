"""The ancestor's latents are found under their names and decode, through diffusers, to the volume that was encoded."""

import nibabel as nib
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from radiograph_files import film
from test_layouts import prepared

from dataset.errors import UserError
from dataset.intensity import Window
from dataset.preparation.latents import decode_latents, find_latents, load_decoder, read_latents
from dataset.preparation.pairing import pair
from dataset.preparation.radiograph import find_radiographs
from dataset.preparation.tables import pairs_of, read_table

WINDOW = Window.parse("ctpa")


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A small VAE of the same class with random weights, saved as its maker would."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL(block_out_channels=[8, 8], norm_num_groups=4, latent_channels=4, **blocks).save_pretrained(folder)
    return folder


def test_latents_are_found_by_their_shape_and_named_by_their_files(tmp_path):
    latent = np.zeros((4, 4, 4, 6), np.float32)
    for name in ("CTPA_vae_256/4015.npy", "lidc_vae_256/LIDC-IDRI-0001.npy", "RSPECT_vae_256/6897fa_2bfbb7.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, latent)
    np.save(tmp_path / "film.npy", np.stack([film()] * 3))
    np.save(tmp_path / "volume.npy", np.zeros((8, 8, 8)))
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY rubbish")
    found = {one.files[0].stem: one for one in find_latents(tmp_path)}
    assert set(found) == {"4015", "LIDC-IDRI-0001", "6897fa_2bfbb7"}
    assert (found["6897fa_2bfbb7"].study_uid, found["6897fa_2bfbb7"].series_uid) == ("6897fa", "2bfbb7")
    assert found["4015"].accession == "4015" and found["LIDC-IDRI-0001"].patient == "LIDC-IDRI-0001"
    assert len({one.key for one in found.values()}) == 3


def test_axes_and_factor(tmp_path):
    latent = np.random.default_rng(0).normal(size=(4, 8, 6, 10)).astype(np.float32)  # channels, height, width, slices
    np.save(tmp_path / "a.npy", latent * 0.18215)
    found = read_latents(tmp_path / "a.npy")
    assert found.shape == (4, 10, 8, 6) and found.dtype == np.float32 and found.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(found[1, 7, 3, 2], latent[1, 3, 2, 7], rtol=1e-6)


def test_decoding_is_the_vaes_own_slice_by_slice(tmp_path, vae):
    network = AutoencoderKL.from_pretrained(vae).eval()
    volume = torch.rand(11, 1, 16, 12) * 2 - 1  # more slices than are decoded at once
    with torch.inference_mode():
        latents = network.encode(volume.expand(-1, 3, -1, -1)).latent_dist.mode()
        wanted = network.decode(latents).sample.mean(dim=1).clamp(-1, 1)
    np.save(tmp_path / "a.npy", latents.permute(1, 2, 3, 0).numpy() * 0.18215)
    found = decode_latents(tmp_path / "a.npy", load_decoder(vae), WINDOW)
    np.testing.assert_allclose(found.hu, WINDOW.denormalise(wanted).numpy(), atol=0.5)
    assert found.hu.shape == (11, 16, 12) and found.hu.min() >= -200 and found.hu.max() <= 500
    np.testing.assert_allclose(found.extent, (240, 200, 290))


def test_the_ancestors_folder_pairs_by_its_table(tmp_path):
    for folder, name, array in (("CTPA_vae_256", "15", np.zeros((4, 4, 4, 6))), ("XRay_preprocessed", "51", film())):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / f"{name}.npy", array.astype(np.float32))
    (tmp_path / "y.csv").write_text("CT_Accession_number,cxr_Accession_number,PE\n15,51,1\n16,52,0\n")
    found = pair(find_latents(tmp_path), find_radiographs(tmp_path), pairs_of(read_table(tmp_path / "y.csv")))
    assert found.pairs == {0: 0} and len(found.listed) == 1  # the second pair lies elsewhere


def test_what_is_no_latent_and_what_is_no_vae(tmp_path, vae):
    np.save(tmp_path / "a.npy", np.zeros((64, 64)))
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "c.npy", np.full((4, 2, 2, 2), np.nan))
    for name, word in (("a", "shape"), ("b", "not a NumPy array"), ("c", "NaN"), ("d", "not a NumPy array")):
        with pytest.raises(UserError, match=word):
            read_latents(tmp_path / f"{name}.npy")
    with pytest.raises(UserError, match="vae_ckpt is missing"):
        load_decoder(None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.safetensors").write_bytes(b"rubbish")
    for path in (tmp_path / "empty", tmp_path / "x.safetensors"):
        with pytest.raises(UserError, match="cannot be loaded"):
            load_decoder(str(path))


def test_the_ancestors_folder_becomes_a_training_set(tmp_path, vae):
    root, output, lines = tmp_path / "src", tmp_path / "out", ["CT_Accession_number,cxr_Accession_number,PE"]
    for folder in ("CTPA_vae_256", "XRay_preprocessed"):
        (root / folder).mkdir(parents=True)
    for i in range(3):
        latent = np.random.default_rng(i).normal(size=(4, 8, 8, 10)) * 0.18215
        np.save(root / "CTPA_vae_256" / f"40{i}.npy", latent.astype(np.float32))
        np.save(root / "XRay_preprocessed" / f"50{i}.npy", np.stack([(film() / 4095 - 0.633) / 0.181] * 3))
        lines.append(f"40{i},50{i},{i % 2}")
    (tmp_path / "y.csv").write_text("\n".join(lines))
    rows = prepared(root, output, f"from_csv={tmp_path / 'y.csv'}", f"vae_ckpt={vae}")
    assert len(rows) == 3 and set(rows["xray_source"]) == {"film"} and sorted(rows["label"]) == ["0", "0", "1"]
    assert nib.load(output / rows["ct"][0]).shape == (16, 16, 10)
    summary = (output / "summary.csv").read_text()
    assert "spacing is nominal" in summary and "HU outside their window are lost" in summary
