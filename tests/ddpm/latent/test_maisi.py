"""MAISI's 3D VAE from each layout that users have, in the axes and the range of its training; random weights."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from vae_files import SMALL_MAISI

from common.errors import UserError
from ddpm.checkpoint.latent_encoder import make_latent_encoder
from ddpm.latent.maisi import PUBLISHED, MaisiLatents, load_maisi

VOLUME = torch.tanh(torch.randn(1, 1, 8, 12, 16, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return MaisiLatents(SMALL_MAISI)


def reoriented(array: np.ndarray, source: str, target: str) -> torch.Tensor:
    orientations = (nib.orientations.axcodes2ornt(tuple(codes)) for codes in (source, target))
    turned = nib.orientations.apply_orientation(array, nib.orientations.ornt_transform(*orientations))
    return torch.from_numpy(np.ascontiguousarray(turned))


def test_the_network_sees_ras_axes_and_values_from_0_to_1(encoder):
    ras = reoriented(VOLUME[0, 0].numpy(), "SPL", "RAS")
    mean, _ = encoder.network.encode((ras[None, None] + 1) / 2)
    expected = torch.stack([reoriented(channel.numpy(), "RAS", "SPL") for channel in mean[0]])
    raw = encoder.encode_raw(VOLUME)
    assert raw.shape == (1, 4, 2, 3, 4) and torch.allclose(raw[0], expected, atol=1e-5)
    assert (encoder.network.decode(mean)[0, 0] * 2 - 1 - reoriented(
        encoder.decode_raw(raw)[0, 0].numpy(), "SPL", "RAS")).abs().max() < 1e-4  # fmt: skip


def test_sides_that_would_decode_to_another_size_are_refused(encoder):
    with pytest.raises(ValueError, match="8×12×18: the sides must be multiples of 4"):
        encoder.encode_raw(torch.zeros(1, 1, 8, 12, 18))


def write(encoder, folder, layout):
    """A file or folder with the weights and their config; returns what the user gives."""
    weights = encoder.network.state_dict()
    (folder / "models").mkdir(parents=True)
    (folder / "configs").mkdir()
    if layout == "bundle":
        torch.save(weights, folder / "models" / "autoencoder.pt")
        definition = {**SMALL_MAISI, "spatial_dims": "@dims", "latent_channels": "@channels", "norm_float16": True}
        content = {"imports": ["$import os"], "dims": 3, "channels": 4, "autoencoder_def": definition}
        (folder / "configs" / "inference.json").write_text(json.dumps(content))
        return folder
    (folder / "config.json").write_text(json.dumps({**SMALL_MAISI, "_target_": "os.system", "num_splits": 8}))
    if layout == "safetensors":
        save_file(weights, folder / "autoencoder_v1.safetensors")
        return folder
    torch.save({"epoch": 273, "unet_state_dict": weights}, folder / "autoencoder_epoch273.pt")
    return folder / "autoencoder_epoch273.pt"


@pytest.mark.parametrize("layout", ["bundle", "safetensors", "checkpoint"])
def test_every_layout_gives_the_same_latents(encoder, tmp_path, layout):
    given = write(encoder, tmp_path / "maisi", layout)
    loaded = make_latent_encoder(maisi_ckpt=str(given))
    assert torch.equal(loaded.encode_raw(VOLUME), encoder.encode_raw(VOLUME))
    assert loaded.config.source == str(given) and not loaded.network.training


def test_without_a_config_the_published_network_is_built(tmp_path):
    with torch.device("meta"):
        channels = MaisiLatents({}).network.encoder.state_dict()
    assert PUBLISHED["num_channels"] == [64, 128, 256] and channels["blocks.0.conv.conv.weight"].shape[:2] == (64, 1)
    save_file({"encoder.blocks.0.conv.conv.weight": torch.zeros(8, 1, 3, 3, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="not MAISI's autoencoder"):
        load_maisi(str(tmp_path / "a.safetensors"))


def test_what_is_missing_or_wrong_is_one_line(encoder, tmp_path):
    for path, reason in ((tmp_path / "none", "no such file"), (tmp_path, "without weights")):
        with pytest.raises(UserError, match=reason):
            load_maisi(str(path))
    with pytest.raises(UserError, match="needs model.maisi_ckpt"):
        make_latent_encoder(latent_encoder="maisi")
    given = write(encoder, tmp_path / "two", "bundle")
    (given / "configs" / "inference.json").write_text(json.dumps({**SMALL_MAISI, "spatial_dims": 2}))
    with pytest.raises(UserError, match="no network of CT volumes"):
        load_maisi(str(given))
    (given / "models" / "autoencoder.pt").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UserError, match="truncated or damaged|not a file of weights"):
        load_maisi(str(given))
