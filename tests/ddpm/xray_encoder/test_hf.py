"""Any vision network of transformers: its images, embedding and patch map are the library's; small random weights."""

import json

import numpy as np
import pytest
import torch
import transformers
from encoder_files import fake_hub_cache
from huggingface_hub import constants
from PIL import Image

from common.errors import UserError
from ddpm import registry
from ddpm.checkpoint.write import component
from ddpm.xray_encoder.hf import HFXrayEncoder
from ddpm.xray_encoder.transformer import harmless

SIDE = 56
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES = {**SMALL, "image_size": SIDE, "patch_size": 14}
SQUARE = {"size": {"height": SIDE, "width": SIDE}}


def vit(folder):
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(folder)
    transformers.ViTImageProcessor(**SQUARE, resample=2, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained(
        folder
    )


def dinov2_registers(folder):
    config = transformers.Dinov2WithRegistersConfig(**SIZES, num_register_tokens=4)
    transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)
    cropped = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    transformers.BitImageProcessor(**cropped, image_mean=[0.53] * 3, image_std=[0.25] * 3).save_pretrained(folder)


def dinov3(folder):
    transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SIZES, num_register_tokens=4)).save_pretrained(folder)
    transformers.ViTImageProcessor(**SQUARE, resample=2).save_pretrained(folder)


def siglip(folder):
    """Both towers, as MedSigLIP is published."""
    text = {
        **SMALL,
        "vocab_size": 8,
        "max_position_embeddings": 4,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    config = transformers.SiglipConfig(text_config=text, vision_config=SIZES)
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.SiglipImageProcessor(**SQUARE, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        folder
    )


KINDS = {"vit": vit, "dinov2_registers": dinov2_registers, "dinov3": dinov3, "siglip": siglip}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    for name, save in KINDS.items():
        save(folder / name)
    return folder


@pytest.fixture(scope="module")
def encoders(saved):
    return {kind: HFXrayEncoder.from_weights(str(saved / kind)) for kind in KINDS}


def picture():
    y, x = np.mgrid[:200, :200] / 200
    return Image.fromarray(((0.5 + 0.2 * np.sin(9 * x) * np.cos(7 * y + x)) * 255).astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_embeddings_are_those_of_the_library(kind, encoders, saved):
    encoder = encoders[kind]
    processor = transformers.AutoImageProcessor.from_pretrained(saved / kind)
    theirs = processor(picture().convert("RGB"), return_tensors="pt")["pixel_values"]
    ours = encoder.preprocess(torch.from_numpy(np.asarray(picture()) / 255.0).float()[None, None])
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 1.5 / 255 / min(processor.image_std)
    library = transformers.AutoModel.from_pretrained(saved / kind)
    library = getattr(library, "vision_model", library).eval()
    with torch.no_grad():
        embedding, maps = encoder.encode_image(theirs)
        out = library(pixel_values=theirs)
    assert torch.allclose(embedding, out.pooler_output, atol=1e-5)
    assert maps.shape == (1, 32, 4, 4) and encoder.feature_channels == 32 == encoder.embedding_dim
    assert torch.allclose(maps.flatten(2).transpose(1, 2), out.last_hidden_state[:, -16:], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_keeps_the_place_of_what_the_xray_shows(kind, encoders):
    xray = torch.full((1, 1, 1, 112, 112), 0.5)
    changed = xray.clone()
    changed[..., 28:56, 84:112] = 1.0
    with torch.no_grad():
        change = (encoders[kind](changed).maps - encoders[kind](xray).maps)[0, 0].square().sum(dim=0)
    assert (1, 3) in [divmod(int(place), 4) for place in change.flatten().topk(2).indices]  # attention mixes some


@pytest.mark.parametrize("kind", KINDS)
def test_rebuilt_from_plain_json_and_weights(kind, encoders):
    entry = json.loads(json.dumps(component(encoders[kind])))
    again = registry.CLASSES[entry["class"]](**entry["config"])
    again.load_state_dict(encoders[kind].state_dict())
    xray = torch.rand(1, 1, 1, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(encoders[kind](xray), again.eval()(xray), strict=True):
            assert torch.equal(ours, theirs)


def test_hub_id_and_folder_are_one_path(saved, encoders, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    fake_hub_cache(tmp_path, "someone/vit", saved / "vit")
    found = HFXrayEncoder.from_weights("someone/vit").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in encoders["vit"].state_dict().items())
    with pytest.raises(UserError, match="hf download someone/other"):
        HFXrayEncoder.from_weights("someone/other")


def test_what_is_no_vision_network_is_one_line(saved, tmp_path):
    import shutil

    with pytest.raises(UserError, match="missing; give a hub id"):
        HFXrayEncoder.from_weights(None)
    changes = {
        "config.json": {"model_type": "mystery", "auto_map": {"AutoModel": "own.Model"}},
        "preprocessor_config.json": {"size": {"height": 56, "width": 28}},
    }
    for file, change in changes.items():
        folder = shutil.copytree(saved / "vit", tmp_path / file)
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match="no vision network of transformers"):
            HFXrayEncoder.from_weights(str(folder))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_settings_of_a_foreign_file_fetch_no_kernel(encoders, key):
    """transformers would fetch code from the hub for a name with a slash."""
    config = dict(encoders["vit"].config)
    vision = {**config["vision"], key: "someone/kernel", "text_config": {key: "someone/kernel"}}
    assert not any(key in str(part) for part in (harmless(vision), harmless(vision)["text_config"]))
    arguments = {k: config[k] for k in ("image_size", "mean", "std")}
    made = HFXrayEncoder(vision=vision | {"text_config": None}, **arguments)
    assert "/" not in str(made.network.config._attn_implementation)


def test_a_huge_image_is_refused_before_it_is_made(encoders):
    config = dict(encoders["vit"].config)
    with pytest.raises(UserError, match="image_size=20000: X-ray encoders take at most 1024 pixels"):
        HFXrayEncoder(config["vision"], 20000, config["mean"], config["std"])
