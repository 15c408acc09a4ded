"""Untrusted checkpoints: they run no code, fill no memory and reach no network."""

import json
import tarfile

import pytest
import torch
from ddpm_parts import module
from fuzz_seeds import checkpoint, checkpoint_files, packed
from safetensors.torch import save

from common.errors import UserError
from common.files import ROOT
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.read import read
from ddpm.checkpoint.write import export_pipeline
from ddpm.classifiers.xray import TorchvisionXrayClassifier
from ddpm.losses.vgg import VGG16Features
from ddpm.weights.licences import inherits, licence_of, public_name
from ddpm.weights.xrv_pickle import network_weights
from evaluation.distribution import feature_extractors as extractors
from evaluation.metrics.lpips import load_lpips
from evaluation.sharing import monai_bundle as bundle

OLD = ROOT / "tests" / "ddpm" / "files" / "release_0.1.0.ckpt"


def vqgan(path, **changes):
    header, weights = checkpoint()
    entry = header["components"]["vqgan"]
    entry["config"] = {**entry["config"], **changes.pop("config", {})}
    path.write_bytes(save(weights, {"header": json.dumps({**header, **changes})}))
    return path


def test_a_compressed_archive_is_refused_before_it_is_opened(tmp_path):
    good, _ = checkpoint_files()
    (tmp_path / "good.ckpt").write_bytes(good)
    read(tmp_path / "good.ckpt").vqgan()
    zeros = tmp_path / "zeros.ckpt"
    torch.save({"header": {}, "state_dict": {"a": torch.zeros(3_000_000)}}, zeros)
    zeros.write_bytes(packed(zeros.read_bytes()))
    assert zeros.stat().st_size < 100_000  # 12 MB behind it
    with pytest.raises(UserError, match="an archive of .* bytes that unpacks to"):
        read(zeros)


class Shouts:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("read", [
    lambda path: VGG16Features.from_file(path),
    lambda path: TorchvisionXrayClassifier.from_weights("resnet18", weights=str(path)),
    lambda path: load_lpips(path),
    lambda path: extractors._load(torch.nn.Linear(1, 1), path),
    lambda path: bundle.filled(torch.nn.Linear(1, 1), path),
])  # fmt: skip
def test_every_weight_file_is_checked_before_it_is_opened(read, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(3_000_000)}, path)
    path.write_bytes(packed(path.read_bytes()))
    with pytest.raises((UserError, ValueError), match="an archive of .* bytes that unpacks to"):
        read(path)
    torch.save({"a": Shouts()}, path)
    with pytest.raises((UserError, ValueError), match="not a file of weights alone"):
        read(path)
    torch.save([1, 2], path)
    with pytest.raises((UserError, ValueError), match="holds a list"):
        read(path)
    path.write_bytes(b"PK" + bytes(200))
    with pytest.raises((UserError, ValueError), match="not a file of weights alone"):
        read(path)
    assert "run" not in capsys.readouterr().out


def test_a_torchscript_program_is_no_checkpoint_and_no_network(tmp_path):
    class Program(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    path = tmp_path / "program.pt"
    torch.jit.script(Program()).save(str(path))
    with pytest.raises(ValueError, match="TorchScript program"):
        network_weights(path)
    path.rename(tmp_path / "program.ckpt")
    with pytest.raises(UserError, match="TorchScript program"):
        read(tmp_path / "program.ckpt")


def test_torchs_oldest_format_is_not_unpacked(tmp_path):
    (tmp_path / "storages").write_bytes(b"x")
    with tarfile.open(tmp_path / "network.pt", "w") as archive:
        archive.add(tmp_path / "storages", "storages")
    with pytest.raises(ValueError, match="tar archive"):
        network_weights(tmp_path / "network.pt")


def test_a_component_larger_than_its_weights_is_refused(tmp_path):
    path = vqgan(tmp_path / "model.safetensors", config={"n_codes": 1_000_000, "embedding_dim": 100_000})
    with pytest.raises(UserError, match="needs 4[0-9.]+e\\+0[0-9] GB|needs [0-9]+ GB"):
        read(path).vqgan()
    for value in (2**40, float("nan"), [0] * 5000):
        with pytest.raises(UserError, match="component vqgan"):
            read(vqgan(tmp_path / "model.safetensors", config={"n_codes": value})).vqgan()


@pytest.mark.parametrize("name", ["hf-hub:somebody/model", "https://example.org/model", "local-dir:/tmp"])
def test_a_header_cannot_name_a_model_to_be_fetched(tmp_path, name):
    """timm fetches `hf-hub:` names when it builds a network, even without weights."""
    pipeline = module().pipeline()
    path = export_pipeline(pipeline, tmp_path / "model.safetensors")
    checkpoint = read(path)
    header, weights = checkpoint.header, checkpoint.weights
    vision = {"timm_model_name": name, "image_size": 32}
    header["components"]["xray_encoder"] = {"class": "BiomedCLIPXrayEncoder", "prefix": "x.",
                                            "config": {"embed_dim": 8, "vision": vision}}  # fmt: skip
    path.write_bytes(save(weights, {"header": json.dumps(header)}))
    with pytest.raises(UserError, match="would be downloaded"):
        load_pipeline(path)


@pytest.mark.parametrize(("key", "value"), [("volume_size", [10**6] * 3), ("volume_size", "x"), ("extent", [1, 2]),
                                            ("window", "nowhere"), ("xray_size", [0, 5])])  # fmt: skip
def test_a_damaged_protocol_is_named(tmp_path, key, value):
    pipeline = module().pipeline()
    pipeline.register_to_config(protocol={**pipeline.protocol, key: value})
    with pytest.raises(UserError, match="protocol is damaged"):
        load_pipeline(export_pipeline(pipeline, tmp_path / "model.safetensors"))


def test_a_newer_format_asks_for_an_update(tmp_path):
    with pytest.raises(UserError, match="format 2, this version reads 1; update"):
        read(vqgan(tmp_path / "model.safetensors", format=2)).vqgan()


def test_a_class_that_is_no_string(tmp_path):
    """Found by fuzzing: a list is no key of the registry."""
    header, weights = checkpoint()
    header["components"]["vqgan"]["class"] = []
    (tmp_path / "model.safetensors").write_bytes(save(weights, {"header": json.dumps(header)}))
    with pytest.raises(UserError, match="header is damaged"):
        read(tmp_path / "model.safetensors").vqgan()


def test_a_checkpoint_names_what_it_inherits(tmp_path):
    sdxl = "stabilityai/stable-diffusion-xl-base-1.0"
    parts = {"latent_encoder": {"config": {"source": sdxl}}, "xray_encoder": {"config": {"source": "/home/me/x.pt"}}}
    first = {"file": "last.ckpt", "sha256": "ab" * 32, "inherits": [{"part": "training data", "from": "lidc"}]}
    found = inherits({"components": parts, "protocol": {"dataset": "rspect", "init_from": first}})
    parts = {entry["part"]: entry for entry in found}
    assert "medical advice" in parts["latent_encoder"]["licence"] and parts["latent_encoder"]["from"] == sdxl
    assert parts["xray_encoder"] == {"part": "xray_encoder", "from": "x.pt", "licence": "check at the source"}
    assert [e["from"] for e in found if e["part"] == "training data"] == ["lidc", "rspect"]
    assert any("non-commercial" in entry.get("licence", "") for entry in found)
    header = read(export_pipeline(module().pipeline(), tmp_path / "model.safetensors")).header
    assert header["inherits"][-1]["part"] == "training data"


def test_licences_are_found_by_id_name_and_folder():
    assert licence_of("stabilityai/sdxl-vae") == licence_of("/models/sdxl-vae") == "MIT"
    assert licence_of("somebody/other") == "check at the source"
    assert public_name("C:\\Users\\me\\vae") == "vae" and public_name("a/b") == "a/b" and public_name("./b") == "b"


def test_the_checkpoint_of_the_previous_release_generates_the_same_volume():
    """`release_0.1.0.ckpt` and the means of 4³ voxels of its volume were written by that release (a phantom model)."""
    expected = torch.tensor(json.loads(OLD.with_suffix(".json").read_text())["hu"])
    pipeline = load_pipeline(OLD).set_sampler("DDIMScheduler", 3)
    xray = torch.linspace(0, 1, 32 * 32).view(1, 1, 1, 32, 32)
    made = pipeline(xray, seed=0, ids=["old"]).volumes[0, 0]
    found = torch.nn.functional.avg_pool3d(made[None], 4)[0].flatten()
    torch.testing.assert_close(found, expected, atol=10.0, rtol=0)  # HU; bfloat16 rounds otherwise elsewhere
    assert expected.std() > 10.0
