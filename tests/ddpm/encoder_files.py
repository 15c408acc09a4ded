"""Small networks with random weights, of the classes and file formats of the published ones."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ddpm.xray_encoder import BiomedCLIPXrayEncoder, CLIPXrayEncoder, RadDINOXrayEncoder, TorchXRayVisionEncoder

SIDE = 56
CLASSES = {
    "biomedclip": BiomedCLIPXrayEncoder,
    "clip": CLIPXrayEncoder,
    "rad_dino": RadDINOXrayEncoder,
    "torchxrayvision": TorchXRayVisionEncoder,
}
VISION = {
    "timm_model_name": "vit_tiny_patch16_224",
    "timm_model_pretrained": False,
    "timm_pool": "",
    "timm_proj": "linear",
    "image_size": 224,
}
SIZE = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}


def save_network(kind: str, folder: Path) -> str:
    """Saves one; gives what `model.xray_encoder.weights` names."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    return {"biomedclip": _biomedclip, "clip": _clip, "rad_dino": _rad_dino, "torchxrayvision": _densenet}[kind](
        folder
    )


def _biomedclip(folder: Path) -> str:
    from open_clip.model import CLIP

    text = {"context_length": 4, "vocab_size": 8, "width": 16, "heads": 2, "layers": 1}
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    config = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text},
        "preprocess_cfg": {"mean": mean, "std": std},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(CLIP(24, VISION, text).state_dict(), folder / "open_clip_pytorch_model.bin")
    return str(folder)


def _clip(folder: Path) -> str:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": SIDE, "patch_size": 14})
    CLIPModel(config).save_pretrained(folder)  # both towers, as in the published repository
    CLIPImageProcessor(**SIZE).save_pretrained(folder)
    return str(folder)


def _rad_dino(folder: Path) -> str:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    BitImageProcessor(**SIZE, image_mean=[0.53] * 3, image_std=[0.25] * 3).save_pretrained(folder)
    return str(folder)


def xrv():
    """The library, without its turning off of warnings."""
    with warnings.catch_warnings():
        import torchxrayvision

        return torchxrayvision


def densenet():
    """A small one with statistics that are not those of a new network."""
    network = xrv().models.DenseNet(growth_rate=4, block_config=(2, 2, 2, 2), num_init_features=8)
    network(torch.rand(4, 1, 64, 64) * 2048 - 1024)
    return network.eval()


def _densenet(folder: Path) -> str:
    network = densenet()
    network.op_threshs = torch.rand(18)
    # whole, and in the format of before 2020: so are the published ones
    torch.save(network, folder / "densenet.pt", _use_new_zipfile_serialization=False)
    return str(folder / "densenet.pt")


def library_image(kind: str, weights: str, image: Image.Image) -> torch.Tensor:
    """What the library's own preprocessing makes of a grey picture, `(1, c, s, s)`."""
    if kind == "biomedclip":
        import open_clip

        _, transform = open_clip.create_model_from_pretrained(f"local-dir:{weights}")
        return transform(image.convert("RGB"))[None]
    if kind == "torchxrayvision":
        pixels = torch.from_numpy(xrv().utils.normalize(np.asarray(image), 255))[None, None]
        return xrv().utils.fix_resolution(pixels, 224, None)
    from transformers import AutoImageProcessor, CLIPImageProcessor

    processor = CLIPImageProcessor if kind == "clip" else AutoImageProcessor
    return processor.from_pretrained(weights)(image.convert("RGB"), return_tensors="pt")["pixel_values"]


def library_embedding(kind: str, weights: str, pixels: torch.Tensor) -> torch.Tensor:
    """What the library's own network says of a preprocessed picture."""
    if kind == "biomedclip":
        import open_clip

        return open_clip.create_model_from_pretrained(f"local-dir:{weights}", return_transform=False).encode_image(
            pixels
        )
    if kind == "torchxrayvision":
        torch.manual_seed(1)
        return densenet().features2(pixels)
    from transformers import CLIPModel, Dinov2Model

    if kind == "clip":
        return CLIPModel.from_pretrained(weights).vision_model(pixels).pooler_output
    return Dinov2Model.from_pretrained(weights)(pixels).pooler_output


def fake_hub_cache(cache: Path, hub_id: str, files: Path) -> None:
    """A Hugging Face cache that holds a folder's files as those of a hub id."""
    home = cache / f"models--{hub_id.replace('/', '--')}"
    revision = "0" * 40
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    shutil.copytree(files, home / "snapshots" / revision)
