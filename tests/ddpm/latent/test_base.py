"""Tests of every latent encoder, their cache, and the factory that chooses one."""

import logging
from types import SimpleNamespace

import pytest
import torch
from ddpm_parts import VOLUME, latent_encoder, vqgan_file
from torch.utils.data import DataLoader, default_collate
from vae_files import SMALL_MAISI, kl, tiny

from common.errors import UserError
from common.files import newest_checkpoint
from dataset.imaging.hu_window import Window
from ddpm.checkpoint.latent_encoder import make_latent_encoder
from ddpm.latent import MaisiLatents, SliceVAELatents, VQGANLatents
from ddpm.latent.latent_dataset import (
    LatentDataset,
    StoredLatents,
    is_whole,
    latent_file,
    latent_folder,
    read_latents,
    read_scanned,
    scanned_latents,
    write_latents,
)


def vqgan() -> VQGANLatents:
    torch.manual_seed(0)
    return VQGANLatents({"n_codes": 32, "embedding_dim": 4, "n_hiddens": 8, "n_res_blocks": 1})


ENCODERS = {
    "vqgan": vqgan,
    "kl": lambda: SliceVAELatents.from_vae(kl(), "test"),
    "maisi": lambda: MaisiLatents(SMALL_MAISI),
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


def test_latents_are_standardised_after_the_statistics(encoder, volumes):
    with pytest.raises(RuntimeError, match="not measured"):
        encoder.encode(volumes)
    raw = encoder.encode_raw(volumes)
    encoder.measure(raw)
    std, mean = torch.std_mean(encoder.encode(volumes), dim=(0, 2, 3, 4))
    assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-4)
    assert std.square().mean() == pytest.approx(1.0, abs=2e-3)
    assert torch.allclose(encoder.unstandardise(encoder.standardise(raw)), raw, atol=1e-4)


def test_decoding_gives_a_volume_in_range_with_a_gradient(encoder, volumes):
    encoder.measure(encoder.encode_raw(volumes))
    latents = encoder.encode(volumes).requires_grad_()
    out = encoder.decode(latents)
    assert out.shape == volumes.shape and out.abs().max() <= 1
    encoder.decode_raw(encoder.unstandardise(latents)).square().mean().backward()  # random weights leave the range
    assert latents.grad.abs().max() > 0


def test_latents_of_a_volume_do_not_depend_on_what_is_encoded_with_it(encoder, volumes):
    alone = torch.cat([encoder.encode_raw(volume[None]) for volume in volumes])
    assert torch.allclose(encoder.encode_raw(volumes), alone, atol=1e-5)
    encoder.measure(alone)
    latents = encoder.standardise(alone)
    assert torch.allclose(encoder.decode(latents)[1:2], encoder.decode(latents[1:2]), atol=1e-4)


@pytest.mark.parametrize("network", [kl, tiny])
def test_slices_that_would_decode_to_another_size_are_refused(network):
    encoder = SliceVAELatents.from_vae(network(), "test")
    with pytest.raises(ValueError, match="slices of 16×15: the sides must be multiples of 2"):
        encoder.encode_raw(torch.zeros(1, 1, 2, 16, 15))
    assert encoder.decode_raw(encoder.encode_raw(torch.zeros(1, 1, 2, 16, 18))).shape == (1, 1, 2, 16, 18)


def test_reconstruction_belongs_to_the_returned_volume(encoder, volumes):
    true, decoded = encoder.reconstruct(volumes[:1], slices=4)
    assert true.shape == decoded.shape and decoded.abs().max() <= 1
    index = torch.tensor([0, 10, 21, 31]) if encoder.slicewise else torch.arange(32)
    assert torch.equal(true, volumes[:1, :, index])
    whole = encoder.decode_raw(encoder.encode_raw(volumes[:1])).clamp(-1, 1)
    assert torch.allclose(decoded, whole[:, :, index], atol=1e-5)


def test_a_gradient_through_the_decoder_does_not_depend_on_the_chunk(volumes):
    gradients = []
    for chunk in (1, 96):
        encoder = SliceVAELatents.from_vae(kl(), "test", chunk)
        raw = encoder.encode_raw(volumes[:1]).requires_grad_()
        encoder.decode_raw(raw).square().mean().backward()
        gradients.append(raw.grad)
    assert gradients[0].abs().max() > 0 and torch.allclose(*gradients, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("size", [(20, 12, 17), (9, 8, 24)])
def test_a_volume_from_tiles_is_the_whole_one_but_for_the_norms(size):
    torch.manual_seed(0)
    arguments = {"n_codes": 32, "embedding_dim": 4, "n_hiddens": 8}
    tiles, whole = VQGANLatents(arguments, tile=8), VQGANLatents(arguments)
    for parameter in tiles.network.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # blocks start as the identity, with a small receptive field
    for module in list(tiles.network.decoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.GroupNorm):
                setattr(module, name, torch.nn.Identity())
    whole.network = tiles.network
    raw = torch.randn(1, 4, *size)
    with torch.no_grad():
        assert torch.allclose(tiles.decode_raw(raw), whole.decode_raw(raw), rtol=1e-4, atol=1e-4)
    few = VQGANLatents(arguments, tile=8, halo=7)
    few.network = tiles.network
    with torch.no_grad():  # the halo is as wide as it must be
        assert not torch.allclose(few.decode_raw(raw), whole.decode_raw(raw), rtol=1e-4, atol=1e-4)


def test_only_decoding_without_gradient_uses_tiles(volumes):
    encoder = VQGANLatents({"n_codes": 32, "embedding_dim": 4, "n_hiddens": 8, "n_res_blocks": 1}, tile=4, halo=1)
    raw = encoder.encode_raw(volumes[:1])
    whole = encoder.network.decode(raw)
    assert torch.equal(encoder.decode_raw(raw.clone().requires_grad_()), whole)
    assert not torch.equal(encoder.decode_raw(raw), whole)


def test_a_preview_is_decoded_from_at_most_16_latents_a_side(encoder, volumes):
    encoder.measure(encoder.encode_raw(volumes))
    latents = encoder.encode(volumes[:1])
    factor = [V // n for V, n in zip(volumes.shape[2:], latents.shape[2:], strict=True)]
    large = latents.repeat(1, 1, 3, 3, 3)
    assert list(encoder.preview(large).shape[2:]) == [
        min(n, 16) * f for n, f in zip(large.shape[2:], factor, strict=True)
    ]
    small = latents[:, :, :16, :16, :16]
    torch.testing.assert_close(encoder.preview(small), encoder.decode(small))


def test_the_preview_of_principal_components_is_the_decoder_before_its_training(volumes):
    encoder = VQGANLatents({"n_hiddens": 8, "n_res_blocks": 1, "quantise": False, "block_pca": True})
    encoder.network.pca.fit((volume, torch.ones_like(volume, dtype=torch.bool)) for volume in volumes)
    encoder.measure(encoder.encode_raw(volumes))
    latents = encoder.encode(volumes)
    torch.testing.assert_close(encoder.preview(latents), encoder.decode(latents))
    torch.nn.init.normal_(encoder.network.decoder[-1].weight)
    assert not torch.allclose(encoder.preview(latents), encoder.decode(latents), atol=1e-2)


def test_training_mode_changes_no_weights(encoder, volumes):
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


@pytest.mark.parametrize("network", [kl, tiny])
@pytest.mark.parametrize("chunk", [1, 5, 32])
def test_slices_do_not_depend_on_the_chunk(network, volumes, chunk):
    whole, parts = (SliceVAELatents.from_vae(network(), "test", n) for n in (96, chunk))
    raw = whole.encode_raw(volumes)
    assert torch.allclose(raw, parts.encode_raw(volumes), atol=1e-5)
    assert torch.allclose(whole.decode_raw(raw), parts.decode_raw(raw), atol=1e-5)


def test_vae_latents_are_the_posterior_mean_scaled_as_its_config_says(volumes):
    vae, encoder = kl(), ENCODERS["kl"]()
    grey = volumes[:1, :, 7].expand(-1, 3, -1, -1)
    expected = vae.encode(grey).latent_dist.mean * 0.13025
    assert torch.allclose(encoder.encode_raw(volumes[:1])[:, :, 7], expected, atol=1e-5)


def test_cached_latents_are_found_by_encoder_case_and_window(volumes, tmp_path):
    encoder, wide, narrow = vqgan(), Window(-1000, 1000), Window(-200, 500)
    home = latent_folder(tmp_path, encoder)
    files = {
        latent_file(home, case, window) for case in ("a.safetensors", "b.safetensors") for window in (wide, narrow)
    }
    assert len(files) == 4
    next(encoder.parameters()).data.add_(1e-3)
    assert latent_folder(tmp_path, encoder) != home
    file = latent_file(home, "a.safetensors", wide)
    assert not is_whole(file)
    raw = encoder.encode_raw(volumes[:1])[0]
    write_latents(raw, file)
    assert is_whole(file) and torch.equal(read_latents([file])[0], raw)
    assert list(home.iterdir()) == [file]
    file.write_bytes(file.read_bytes()[:-1])
    assert not is_whole(file)


def test_items_have_latents_in_place_of_volumes():
    class Cases(list):
        augments = False

        def condition(self, i, step=-1):
            return {"id": f"{self[i]}{step}"}

    latents = torch.randn(3, 4, 2, 2, 2)
    cases = Cases("abc")
    data = LatentDataset(cases, latents)
    item = data[(2, 9)]
    assert item["id"] == "c-1" and item["step"] == 9 and torch.equal(item["latent"], latents[2])
    cases.augments = True
    assert [data[(1, 4)]["id"], data[(1, 5)]["id"], data[1]["id"]] == ["b4", "b5", "b-1"]


@pytest.mark.parametrize("augments", [False, True])
def test_a_batch_is_its_items_collated(augments):
    class Cases:
        def condition(self, i, step=-1):
            xray = torch.full((1, 1, 2, 2), float(i + 10 * step * augments))
            return {"id": "abc"[i], "label": i - 1, "xray": xray, "spacing": torch.ones(3)}

    cases = Cases()
    cases.augments = augments
    data = LatentDataset(cases, torch.randn(3, 4, 2, 2, 2))
    keys = [(2, 9), (0, 9)]
    whole, single = data.__getitems__(keys), default_collate([data[key] for key in keys])
    assert whole.keys() == single.keys() and whole["id"] == single["id"] == ["c", "a"]
    assert all(torch.equal(whole[k], single[k]) and whole[k].dtype == single[k].dtype for k in whole if k != "id")
    loader = DataLoader(data, batch_size=2, collate_fn=data.collate)
    assert [batch["id"] for batch in loader] == [["a", "b"], ["c"]]


def test_the_vae_is_preferred_with_a_warning(tmp_path, caplog):
    kl().save_pretrained(tmp_path / "vae")
    _, path = vqgan_file(tmp_path / "last.ckpt")
    both = {"vae_ckpt": str(tmp_path / "vae"), "vqgan_ckpt": str(path)}
    with caplog.at_level(logging.WARNING):
        assert isinstance(make_latent_encoder(**both), SliceVAELatents)
    assert "model.vae_ckpt is used; model.latent_encoder=vqgan uses model.vqgan_ckpt" in caplog.text
    assert isinstance(make_latent_encoder(**both, latent_encoder="vqgan"), VQGANLatents)
    with pytest.raises(UserError, match="latent_encoder=x"):
        make_latent_encoder(latent_encoder="x")


def test_newest_vqgan_is_found_or_its_training_named(tmp_path, caplog):
    with pytest.raises(UserError, match="train_vqgan.py"):
        make_latent_encoder(search=str(tmp_path))
    _, path = vqgan_file(tmp_path / "a" / "checkpoints" / "last.ckpt")
    assert newest_checkpoint(tmp_path) == path
    assert isinstance(make_latent_encoder(search=str(tmp_path)), VQGANLatents)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no.ckpt: no such checkpoint"):
        make_latent_encoder(vqgan_ckpt=str(tmp_path / "no.ckpt"))
    with pytest.raises(UserError, match="latent_encoder=vae needs model.vae_ckpt"):
        make_latent_encoder(latent_encoder="vae")


def test_scaling_to_the_range_is_the_smallest_box_around_all_latents():
    encoder = latent_encoder().set_scaling("range")
    raw = torch.randn(3, 4, 2, 2, 2)
    encoder.measure(raw)
    scaled = encoder.standardise(raw)
    assert scaled.min() == pytest.approx(-1.0, abs=1e-5) and scaled.max() == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(encoder.unstandardise(scaled), raw, atol=1e-5)
    with pytest.raises(ValueError, match="latent_scaling=box.*overall, unit, shared, range"):
        encoder.set_scaling("box")


@pytest.mark.parametrize("scaling", [None, "overall", "shared"])
def test_one_scale_keeps_the_ratios_of_the_channels(scaling):
    encoder = latent_encoder() if scaling is None else latent_encoder().set_scaling(scaling)
    raw = torch.randn(3, 4, 2, 2, 2) * torch.tensor([4.0, 1.0, 0.5, 0.1]).view(4, 1, 1, 1) + 3.0
    encoder.measure(raw)
    scaled, std = encoder.standardise(raw), raw.std(dim=(0, 2, 3, 4))
    assert torch.allclose(scaled.mean(dim=(0, 2, 3, 4)), torch.zeros(4), atol=1e-5)
    one = std.max() if scaling == "shared" else std.square().mean().sqrt()
    assert torch.allclose(scaled.std(dim=(0, 2, 3, 4)), std / one, atol=1e-5)
    assert torch.allclose(encoder.unstandardise(scaled), raw, atol=1e-5)


def test_marks_of_latents_are_stored_and_reach_the_batch(tmp_path):
    scanned = torch.ones(2, 1, 8, 8, 8, dtype=torch.bool)
    scanned[0, :, 5:] = False
    marks = scanned_latents(scanned, (4, 4, 4))
    assert marks[0, 0, :, 0, 0].tolist() == [True, True, True, False] and marks[1].all()  # half of the third block
    files, raw = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], torch.rand(2, 3, 4, 4, 4)
    for latents, mask, file in zip(raw, marks, files, strict=True):
        write_latents(latents, file, mask)
    assert torch.equal(read_scanned(files), marks) and torch.equal(read_latents(files), raw)
    stored = StoredLatents(files, encoder_of_ones())
    for data in (LatentDataset(Conditions(), raw, marks), LatentDataset(Conditions(), stored)):
        assert torch.equal(data.__getitems__([(1, 0), (0, 1)])["scanned"], marks[[1, 0]])
        assert torch.equal(data[0]["scanned"], marks[0]) and torch.equal(data.scanned(), marks)
    assert LatentDataset(Conditions(), raw)[1]["scanned"].all()


class Conditions:
    """A data set of X-rays."""

    augments = False

    def condition(self, index: int, step: int = -1) -> dict:
        return {"xray": torch.full((1, 1, 2, 2), float(index)), "label": 0, "id": str(index)}


def encoder_of_ones():
    """What `StoredLatents` reads of an encoder."""
    return SimpleNamespace(latent_mean=torch.zeros(3), latent_std=torch.ones(3))
