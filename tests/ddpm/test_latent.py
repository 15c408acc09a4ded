"""One battery for every latent encoder, and the factory that looks at a path."""

import logging

import pytest
import torch
from ddpm_parts import VOLUME
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import save_file

from dataset.errors import UserError
from ddpm.checkpoint import component
from ddpm.latent import SliceVAELatents, VQGANLatents
from ddpm.latent.cache import LatentDataset, raw_latents
from ddpm.latent.factory import choose, load_vae, make_latent_encoder, newest_checkpoint
from vq_gan_3d import VQGAN3D


def kl() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.13025,
    )  # fmt: skip


def tiny() -> AutoencoderTiny:
    torch.manual_seed(0)
    options = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    return AutoencoderTiny(**options, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4)


def vqgan() -> VQGANLatents:
    torch.manual_seed(0)
    return VQGANLatents({"n_codes": 32, "embedding_dim": 4, "n_hiddens": 8, "n_res_blocks": 1})


ENCODERS = {
    "vqgan": vqgan,
    "kl": lambda: SliceVAELatents.from_vae(kl(), "test"),
    "tiny": lambda: SliceVAELatents.from_vae(tiny(), "test"),
}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]()


@pytest.fixture
def volumes():
    return torch.tanh(torch.randn(3, 1, *VOLUME, generator=torch.Generator().manual_seed(0)))


def test_shape_comes_from_one_encoded_sample(encoder, volumes):
    assert encoder.latent_shape(VOLUME) == tuple(encoder.encode_raw(volumes[:1]).shape[1:])


def test_latents_are_white_after_the_statistics(encoder, volumes):
    with pytest.raises(RuntimeError, match="not measured"):
        encoder.encode(volumes)
    raw = encoder.encode_raw(volumes)
    encoder.measure(raw)
    std, mean = torch.std_mean(encoder.encode(volumes), dim=(0, 2, 3, 4))
    assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-4)
    assert torch.allclose(std, torch.ones_like(std), atol=1e-3)
    assert torch.allclose(encoder.colour(encoder.whiten(raw)), raw, atol=1e-4)


def test_decoding_gives_a_volume_in_range_with_a_gradient(encoder, volumes):
    encoder.measure(encoder.encode_raw(volumes))
    latents = encoder.encode(volumes).requires_grad_()
    out = encoder.decode(latents)
    assert out.shape == volumes.shape and out.abs().max() <= 1
    encoder.decode_raw(encoder.colour(latents)).square().mean().backward()  # random weights leave the range
    assert latents.grad.abs().max() > 0


def test_frozen_whatever_mode_it_is_put_in(encoder, volumes):
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder.train()
    encoder.decode_raw(encoder.encode_raw(volumes))
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert not any(p.requires_grad for p in encoder.parameters())


def test_saved_encoder_is_the_same(encoder, volumes, tmp_path):
    encoder.measure(encoder.encode_raw(volumes))
    encoder.save_pretrained(tmp_path)
    again = type(encoder).from_pretrained(tmp_path)
    assert torch.allclose(again.encode(volumes), encoder.encode(volumes), atol=1e-6)
    assert again.fingerprint() == encoder.fingerprint()


def test_fingerprint_follows_weights_and_not_statistics(encoder, volumes):
    first = encoder.fingerprint()
    encoder.measure(encoder.encode_raw(volumes))
    assert encoder.fingerprint() == first
    next(iter(encoder.parameters())).data.add_(1e-3)
    assert encoder.fingerprint() != first


@pytest.mark.parametrize("chunk", [1, 5, 32])
def test_slices_do_not_depend_on_the_chunk(volumes, chunk):
    whole, parts = (SliceVAELatents.from_vae(kl(), "test", n) for n in (96, chunk))
    assert torch.allclose(whole.encode_raw(volumes), parts.encode_raw(volumes), atol=1e-5)


def test_vae_latents_are_the_posterior_mean_scaled_as_its_config_says(volumes):
    vae, encoder = kl(), ENCODERS["kl"]()
    grey = volumes[:1, :, 7].expand(-1, 3, -1, -1)
    expected = vae.encode(grey).latent_dist.mean * 0.13025
    assert torch.allclose(encoder.encode_raw(volumes[:1])[:, :, 7], expected, atol=1e-5)


def test_latents_are_encoded_once(volumes, tmp_path):
    encoder = vqgan()
    cases = [{"ct": v} for v in volumes]
    names = ["a", "b", "c"]
    first = raw_latents(encoder, cases, names, tmp_path, torch.device("cpu"), "test")
    encoder.encode_raw = None  # a second encoding would fail
    assert torch.equal(raw_latents(encoder, cases, names, tmp_path, torch.device("cpu"), "test"), first)

    class Cases(list):
        def condition(self, i):
            return {"id": names[i]}

    item = LatentDataset(Cases(cases), first)[(2, 9)]
    assert item["id"] == "c" and item["step"] == 9 and torch.equal(item["latent"], first[2])


def vqgan_checkpoint(path):
    model = VQGAN3D(n_codes=8, embedding_dim=2, n_hiddens=8, n_res_blocks=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"format": 1, "stage": "vqgan", "components": {"vqgan": component(model, "model.")}}
    torch.save({"header": header, "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}, path)
    return str(path)


def test_factory_reads_folders_pipelines_and_single_files(tmp_path):
    kl().save_pretrained(tmp_path / "vae")
    tiny().save_pretrained(tmp_path / "tiny")
    for path in ("vae", "tiny", "."):  # a pipeline keeps its VAE in a subfolder
        assert isinstance(load_vae(str(tmp_path / path)), SliceVAELatents)
    path = vqgan_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert isinstance(make_latent_encoder(vqgan_ckpt=path), VQGANLatents)


def test_vae_goes_first_and_says_so(tmp_path, caplog):
    kl().save_pretrained(tmp_path / "vae")
    path = vqgan_checkpoint(tmp_path / "last.ckpt")
    both = {"vae_ckpt": str(tmp_path / "vae"), "vqgan_ckpt": path}
    with caplog.at_level(logging.WARNING):
        assert isinstance(make_latent_encoder(**both), SliceVAELatents)
    assert "vqgan_ckpt" in caplog.text and "not read" in caplog.text
    assert isinstance(make_latent_encoder(**both, latent_encoder="vqgan"), VQGANLatents)
    with pytest.raises(UserError, match="latent_encoder=x"):
        choose(None, None, "x")


def test_newest_vqgan_is_found_or_its_training_named(tmp_path, caplog):
    with pytest.raises(UserError, match="train_vqgan.py"):
        make_latent_encoder(search=str(tmp_path))
    path = vqgan_checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt")
    assert str(newest_checkpoint(tmp_path)) == path
    assert isinstance(make_latent_encoder(search=str(tmp_path)), VQGANLatents)


def test_offline_hub_id_names_the_id_and_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="stabilityai/none.*huggingface-cli download"):
        load_vae("stabilityai/none")
    with pytest.raises(UserError, match="no.ckpt: no such checkpoint"):
        make_latent_encoder(vqgan_ckpt=str(tmp_path / "no.ckpt"))
    with pytest.raises(UserError, match="latent_encoder=vae needs model.vae_ckpt"):
        make_latent_encoder(latent_encoder="vae")


def test_folders_that_hold_something_else(tmp_path):
    with pytest.raises(UserError, match="config.json"):
        load_vae(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "torch.hub.load"}')
    with pytest.raises(UserError, match="torch.hub.load"):
        load_vae(str(tmp_path))
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="x.safetensors"):
        load_vae(str(tmp_path / "x.safetensors"))
