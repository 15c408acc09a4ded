"""A VAE from a folder, a file and the cache of the hub, offline; and errors that name what is missing."""

import pytest
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import save_file
from vae_files import SMALL_KL, SMALL_TINY, hub_cache, kl, original_keys, tiny

from common.errors import UserError
from ddpm.latent import vae_loading as loading
from ddpm.latent.vae_loading import SDXL_VAE, load_vae
from ddpm.xray_encoder.pretrained import fetch

VOLUME = torch.tanh(torch.randn(1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, and a cache of the test's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def same(encoder, vae) -> bool:
    """Whether the encoder computes what the VAE does, scaled as the VAE's config says."""
    grey = VOLUME[0, 0].unsqueeze(1).expand(-1, 3, -1, -1)
    out = vae.encode(grey)
    raw = out.latents if hasattr(out, "latents") else out.latent_dist.mean
    scaled = (raw * (vae.config.scaling_factor or 1.0)).movedim(0, 1)[None]
    return torch.allclose(encoder.encode_raw(VOLUME), scaled, atol=1e-5)


@pytest.mark.parametrize("network", [kl, tiny])
@pytest.mark.parametrize("part", ["", "vae"])
def test_folder_of_a_vae_or_of_a_pipeline(network, part, tmp_path):
    network().save_pretrained(tmp_path / part)
    assert same(load_vae(str(tmp_path)), network())


@pytest.mark.parametrize("network", [kl, tiny])
@pytest.mark.parametrize("subfolder", ["", "vae"])
def test_hub_id_out_of_the_cache_finds_the_subfolder_by_itself(network, subfolder, tmp_path):
    hub_cache(tmp_path / "hub", "someone/some-model", network(), subfolder)
    encoder = load_vae("someone/some-model")
    assert same(encoder, network()) and encoder.config.source == "someone/some-model"


def single_files() -> dict:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in kl().state_dict().items():
        for new, word in old.items():
            name = name.replace(f".{new}.", f".{word}.")
        renamed[name] = value
    whole = {**original_keys(kl(), "first_stage_model."), "model.diffusion_model.out.weight": torch.zeros(3)}
    return {
        "diffusers": (kl, kl().state_dict()),
        "diffusers with its old names": (kl, renamed),
        "original": (kl, original_keys(kl())),
        "in a whole checkpoint": (kl, whole),
        "half": (kl, {k: v.half() for k, v in original_keys(kl()).items()}),
        "tiny": (tiny, tiny().state_dict()),
    }


@pytest.mark.parametrize("layout", single_files())
def test_single_file_without_a_network(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "SDXL_VAE", SMALL_KL)
    monkeypatch.setattr(loading, "TAESDXL", SMALL_TINY)
    network, weights = single_files()[layout]
    save_file(weights, tmp_path / "vae.safetensors")
    encoder, expected = load_vae(str(tmp_path / "vae.safetensors")), network()
    if layout == "half":
        expected.half().float()
    assert same(encoder, expected)
    assert all(p.dtype == torch.float32 for p in encoder.parameters())


def test_config_beside_a_single_file_is_taken(tmp_path):
    vae = kl()
    vae.register_to_config(scaling_factor=0.5)
    vae.save_pretrained(tmp_path)
    encoder = load_vae(str(tmp_path / "diffusion_pytorch_model.safetensors"))
    assert encoder.config.vae["scaling_factor"] == 0.5 and same(encoder, vae)


def test_the_sdxl_architecture_is_the_published_one():
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(**SDXL_VAE)
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863  # 335 MB in float32, as published
    assert vae.config.scaling_factor == 0.13025 and vae.config.latent_channels == 4


def test_hub_id_without_network_names_where_it_looked_and_two_ways(tmp_path):
    with pytest.raises(UserError) as caught:
        load_vae("stabilityai/none")
    line = str(caught.value)
    for part in (
        "model.vae_ckpt=stabilityai/none",
        str(tmp_path / "hub"),
        "hf download stabilityai/none",
        "safetensors",
    ):
        assert part in line
    assert "\n" not in line


def test_a_cache_with_the_config_alone_is_not_enough(tmp_path):
    folder = hub_cache(tmp_path / "hub", "someone/half", kl(), "vae")
    next(folder.rglob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="someone/half.*hf download"):
        load_vae("someone/half")


@pytest.mark.parametrize("path", ["nowhere", "/nowhere/at/all.safetensors", "a/b/c"])
def test_paths_that_do_not_exist(path):
    with pytest.raises(UserError, match=f"model.vae_ckpt={path}: no such file or folder"):
        load_vae(path)


def test_folders_and_files_that_hold_something_else(tmp_path):
    with pytest.raises(UserError, match="config.json"):
        load_vae(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "torch.hub.load"}')
    with pytest.raises(UserError, match="torch.hub.load"):
        load_vae(str(tmp_path))
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="x.safetensors.*not the encoder and decoder"):
        load_vae(str(tmp_path / "x.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(b"12345678901")
    with pytest.raises(UserError, match="cut.safetensors"):
        load_vae(str(tmp_path / "cut.safetensors"))
    save_file(kl().state_dict(), tmp_path / "small.safetensors")  # of no published size
    with pytest.raises(UserError, match="small.safetensors"):
        load_vae(str(tmp_path / "small.safetensors"))


def test_weights_in_a_pickle_are_not_read(tmp_path):
    kl().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(UserError, match="model.vae_ckpt"):
        load_vae(str(tmp_path))


def test_without_a_network_nothing_is_tried_again_and_nothing_is_logged(monkeypatch, caplog):
    """An endpoint that refuses: `hf_hub_download` alone would retry for half a minute, with two lines a try."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    asked = []

    def download(*arguments, local_files_only=False, **options):
        assert local_files_only, "the library was let onto the network"
        asked.append(arguments)
        return hf_hub_download(*arguments, local_files_only=True, **options)

    monkeypatch.setattr("ddpm.weights.hub.hf_hub_download", download)
    with pytest.raises(UserError, match="someone/model: no such file.*the hub cannot be reached"):
        load_vae("someone/model")
    with pytest.raises(UserError, match="someone/model: no such folder.*the hub cannot be reached"):
        fetch("someone/model", ("a.json",), ("b.safetensors", "b.bin"))
    assert asked and not caplog.records


def test_a_full_cache_needs_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("ddpm.weights.hub.get_hf_file_metadata", lambda *_, **__: pytest.fail("the hub was asked"))
    hub_cache(tmp_path / "hub", "someone/cached", kl())
    assert same(load_vae("someone/cached"), kl())
