"""Pretrained X-ray encoders: images and outputs are those of their libraries; errors name missing files."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_files import CLASSES, densenet, fake_hub_cache, library_embedding, library_image, save_network
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from common.errors import UserError
from ddpm import registry
from ddpm.checkpoint.write import component
from ddpm.weights.xrv_pickle import network_weights

FROM_HUB = ("biomedclip", "clip", "rad_dino")
KINDS = (*FROM_HUB, "torchxrayvision")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("networks")
    return {kind: save_network(kind, folder / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def encoders(saved) -> dict:
    return {kind: CLASSES[kind].from_weights(saved[kind]) for kind in KINDS}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(h: int = 300, w: int = 300) -> Image.Image:
    """Grey blobs and noise, nowhere black or white: 8 bit libraries clip where bicubic overshoots."""
    y, x = np.mgrid[:h, :w] / max(h, w)
    smooth = 0.5 + 0.2 * np.sin(9 * x) * np.cos(7 * y + x)
    return Image.fromarray(((smooth + 0.1 * np.random.default_rng(0).random((h, w))) * 255).astype(np.uint8))


def as_xray(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image) / 255.0).float()[None, None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_image_is_preprocessed_as_by_the_library(kind, encoders, saved):
    image = picture()
    ours, theirs = encoders[kind].preprocess(as_xray(image)[0]), library_image(kind, saved[kind], image)
    assert ours.shape == theirs.shape
    grey = 2048 / 255 if kind == "torchxrayvision" else 1 / 255 / 0.25  # one grey level in the image's unit
    assert (ours - theirs).abs().max() < 1.5 * grey  # the libraries round to 8 bits after each pass of the resize


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_is_the_librarys_own(kind, encoders, saved):
    encoder, pixels = encoders[kind], library_image(kind, saved[kind], picture())
    with torch.no_grad():
        embedding, maps = encoder.encode_image(pixels)
        assert torch.allclose(embedding, library_embedding(kind, saved[kind], pixels), atol=1e-5)
    assert embedding.shape[1] == encoder.embedding_dim and maps.shape[1] == encoder.feature_channels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corner", [(0.2, 0.9), (0.7, 0.1)])
def test_map_covers_the_field_of_the_xray_and_keeps_its_place(kind, corner, encoders):
    """A spot in an oblong image shows in the map where it is: nothing was cut off or turned."""
    xray = torch.full((1, 2, 1, 160, 320), 0.5)
    row, column = int(corner[0] * 160), int(corner[1] * 320)
    changed = xray.clone()
    changed[0, 1, 0, row - 8 : row + 8, column - 16 : column + 16] = 1.0
    with torch.no_grad():
        before, after = encoders[kind](xray), encoders[kind](changed)
    assert torch.equal(before.maps[:, 0], after.maps[:, 0])  # the other view
    change = (after.maps - before.maps)[0, 1].square().sum(dim=0)
    y, x = divmod(int(change.argmax()), change.shape[1])
    assert abs((y + 0.5) / change.shape[0] - corner[0]) < 1.1 / change.shape[0]
    assert abs((x + 0.5) / change.shape[1] - corner[1]) < 1.1 / change.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_rebuilt_from_plain_json_and_weights(kind, encoders):
    encoder = encoders[kind]
    entry = json.loads(json.dumps(component(encoder)))
    again = registry.CLASSES[entry["class"]](**entry["config"])
    again.load_state_dict(encoder.state_dict())
    xray = as_xray(picture(64, 64))
    with torch.no_grad():
        for ours, theirs in zip(encoder(xray), again.eval()(xray), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", FROM_HUB)
def test_hub_id_and_folder_are_one_path(kind, encoders, saved, offline):
    fake_hub_cache(offline, "someone/network", Path(saved[kind]))
    found = CLASSES[kind].from_weights("someone/network").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in encoders[kind].state_dict().items())


@pytest.mark.parametrize("kind", FROM_HUB)
def test_without_network_and_cache_the_line_says_where_it_looked_and_what_to_do(kind, offline):
    with pytest.raises(UserError) as error:
        CLASSES[kind].from_weights("someone/network")
    line = str(error.value)
    for part in ("model.xray_encoder.weights=someone/network", str(offline), "hf download someone/network", "folder"):
        assert part in line


def test_unknown_or_missing_densenet(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="densenet121-res224-all"):
        CLASSES["torchxrayvision"].from_weights("resnet")
    monkeypatch.setattr("ddpm.xray_encoder.xrv_densenet.CACHE", tmp_path)

    def closed(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", closed)
    with pytest.raises(UserError, match=f"{tmp_path}.*Two ways"):
        CLASSES["torchxrayvision"].from_weights("densenet121-res224-all")


def test_folders_that_hold_something_else(saved, tmp_path):
    with pytest.raises(UserError, match="open_clip_config.json"):
        CLASSES["biomedclip"].from_weights(saved["clip"])
    with pytest.raises(UserError, match="model type clip, not dinov2"):
        CLASSES["rad_dino"].from_weights(saved["clip"])
    shutil.copytree(saved["rad_dino"], tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != "layernorm.weight"}, file, {"format": "pt"})
    with pytest.raises(UserError, match="its weights lack"):  # the library would go on with random numbers
        CLASSES["rad_dino"].from_weights(str(tmp_path / "cut"))
    with pytest.raises(UserError, match="not a vision transformer of open_clip"):
        torch.save({"visual.x": torch.zeros(1)}, tmp_path / "open_clip_pytorch_model.bin")
        shutil.copy(f"{saved['biomedclip']}/open_clip_config.json", tmp_path)
        CLASSES["biomedclip"].from_weights(str(tmp_path))


@pytest.mark.parametrize("form", ["whole", "old", "state", "safetensors"])
def test_densenet_files_of_every_form(form, tmp_path):
    network, path = densenet(), tmp_path / ("n.safetensors" if form == "safetensors" else "n.pt")
    if form in ("whole", "old"):
        torch.save(network, path, _use_new_zipfile_serialization=form == "whole")
    elif form == "state":
        torch.save(network.state_dict(), path)
    else:
        save_file(network.state_dict(), path)
    encoder = CLASSES["torchxrayvision"].from_weights(str(path))
    assert all(torch.equal(v, network.features.state_dict()[k]) for k, v in encoder.network.state_dict().items())


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("form", ["zip", "old", "plain"])
def test_a_pickled_network_cannot_run_anything(form, tmp_path):
    network, target, path = densenet(), tmp_path / "owned", tmp_path / "n.pt"
    network.extra = Bomb(target)
    if form == "plain":
        path.write_bytes(pickle.dumps(network))
    else:
        torch.save(network, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ValueError, match="nothing in the file was run"):
        network_weights(path)
    with pytest.raises(UserError, match="n.pt"):
        CLASSES["torchxrayvision"].from_weights(str(path))
    assert not target.exists()
