"""Fine-tuning from another run, with and without adapters, through the command."""

import shutil
from pathlib import Path

import pytest
import torch
from encoder_files import save_network
from folder_sources import source as folder_source

from common.errors import UserError
from common.files import ROOT, sha256
from dataset.io.nifti import write_nifti
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.read import read
from ddpm.checkpoint.write import component
from ddpm.xray_encoder import TorchXRayVisionEncoder
from evaluation.protocol.leakage import seen_patients
from train.generator.finetuning import Origin
from vq_gan_3d import VQGAN3D

LORA = ["model.lora.enabled=true", "model.lora.rank=2", "model.lora.alpha=4"]


@pytest.fixture(scope="module")
def base(train, vae, tmp_path_factory) -> Path:
    """The checkpoint of a first run."""
    return train(tmp_path_factory.mktemp("base"), f"model.vae_ckpt={vae}") / "last.ckpt"


@pytest.mark.slow
def test_lora_from_another_run_resumed_and_generated_from(base, train, tmp_path):
    start = [*LORA, f"model.init_from={base}", "dataset.seed=5", "model.results_folder_postfix=lora_finetune"]
    folder = train(tmp_path / "lora", *start)
    assert folder.parent.name.endswith("_lora_finetune")
    before, after = load_pipeline(base), load_pipeline(folder / "last.ckpt")
    for name in ("latent_mean", "latent_std"):  # statistics of the first run's data
        assert torch.equal(getattr(before.latent_encoder, name), getattr(after.latent_encoder, name))
    assert after.protocol["init_from"]["file"] == "last.ckpt" and str(tmp_path) not in str(after.protocol)

    whole = read(folder / "last.ckpt")
    weights = whole.weights
    plain = {k.replace(".base_layer", ""): v for k, v in weights.items() if ".lora_" not in k}
    for part in ("denoiser", "lift"):
        assert all(torch.equal(plain[f"{part}.{k}"], v) for k, v in getattr(before, part).state_dict().items())
    assert (folder / "adapter.safetensors").stat().st_size < 0.6 * base.stat().st_size
    header = read(folder / "adapter.safetensors").header
    named = header["base"]
    inherited = named.pop("inherits")
    assert named == {"file": "last.ckpt", "sha256": sha256(base)}  # without its folder
    assert {row["part"] for row in inherited} >= {"latent_encoder"} and str(tmp_path) not in str(inherited)
    assert str(base.parent.parent) not in str(header)
    adapted = load_pipeline(folder / "adapter.safetensors")
    first, own, found = (pipeline.decoder_residual.deviation for pipeline in (before, after, adapted))
    assert torch.equal(found, own) and not torch.equal(found, first)  # as their own run has measured it
    same = adapted.denoiser.state_dict()
    assert all(torch.allclose(v, same[k], atol=1e-6) for k, v in after.denoiser.state_dict().items())
    assert any(not torch.equal(v, same[k]) for k, v in before.denoiser.state_dict().items())

    half = tmp_path / "resumed" / "run" / "checkpoints"
    half.mkdir(parents=True)
    shutil.copy(folder / "saved2.ckpt", half / "last.ckpt")
    train(tmp_path / "resumed", *start, f"model.resume={half / 'last.ckpt'}")
    resumed = read(half / "last.ckpt")
    assert all(torch.equal(v, resumed.weights[k]) for k, v in weights.items())
    assert all(torch.equal(v, resumed.averages[k]) for k, v in whole.averages.items())


STUDENT = ROOT / "assets" / "chest_128_fast.safetensors"


def test_other_parts_than_those_of_the_origin_are_rejected_with_both_values(base, train, vae, save_vae, tmp_path):
    start = [f"model.init_from={base}"]
    epsilon = ["model.objective.prediction=epsilon", "model.objective.zero_terminal_snr=false"]
    for overrides, message in (
        ([*start, "model.dim=32"], "denoiser.dim=16 there, 32 here"),
        ([*start, *epsilon], "scheduler.prediction_type=v_prediction there, epsilon here"),
        ([*start, f"model.vae_ckpt={save_vae(1)}"], "vae1_.*is not the latent encoder of model.init_from"),
        ([*LORA, f"model.vae_ckpt={vae}"], "model.init_from=<checkpoint>"),
        ([f"model.init_from={tmp_path}"], "model.init_from=.*: a folder; give the last.ckpt of .*safetensors"),
        ([f"model.init_from={STUDENT}"], "distilled for few steps, .* give its teacher, chest_128.safetensors"),
        (["model.init_from=gone.ckpt"], "model.init_from=gone.ckpt: no such checkpoint; .*train_ddpm"),
    ):
        with pytest.raises(UserError, match=message):
            train(tmp_path, *overrides)


def test_a_checkpoint_contains_the_pretrained_x_ray_encoder(train, vae, tmp_path, capsys):
    weights = save_network("torchxrayvision", tmp_path / "densenet")
    folder = train(
        tmp_path / "runs", "model/xray_encoder=torchxrayvision", f"model.xray_encoder.weights={weights}",
        "model.xray_encoder.image_size=32", f"model.vae_ckpt={vae}",
    )  # fmt: skip
    assert "Encoding X-rays (train)" in capsys.readouterr().out
    before = TorchXRayVisionEncoder.from_weights(weights, 32).state_dict()
    Path(weights).unlink()
    after = load_pipeline(folder / "last.ckpt").xray_encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_full_fine_tuning_starts_from_the_averaged_weights(base):
    origin = Origin(base)
    checkpoint = read(base)
    weights = checkpoint.weights
    assert any(not torch.equal(v, weights[k]) for k, v in checkpoint.averages.items())
    parts = {name: type(part)(**{k: v for k, v in part.config.items() if k[0] != "_"})
             for name, part in (("denoiser", origin.pipeline.denoiser), ("lift", origin.pipeline.lift),
                                ("xray_encoder", origin.pipeline.xray_encoder))}  # fmt: skip
    origin.load_into(parts, origin.pipeline.training_scheduler)
    for name, average in checkpoint.averages.items():
        part, _, key = name.partition(".")
        assert torch.equal(parts[part].state_dict()[key], average)


def test_a_shift_of_the_data_gives_a_warning(base, caplog):
    origin = Origin(base)
    strong = torch.tensor([1.96, 0.3, 0.2, 0.1]).view(4, 1, 1, 1)  # one scale for all, mean variance 1
    for scale in (1.0, strong, strong / 1.96):
        origin.warn_of_shift(scale * torch.randn(4, 4, 8, 8, 8), origin.pipeline.window)
    assert not caplog.records
    origin.warn_of_shift(3 * torch.randn(4, 4, 8, 8, 8), type(origin.pipeline.window)(-1200, 600))
    assert "[-1200, 600]" in caplog.text and "differ from those of model.init_from" in caplog.text


def test_lungs_of_another_share_of_the_frame_give_a_warning(base, caplog, monkeypatch):
    """A scan from neck to abdomen, where the weights learned boxes of the lungs."""
    origin = Origin(base)
    box = [0.2, 0.8, 0.2, 0.8, 0.15, 0.85]
    monkeypatch.setattr(type(origin.pipeline), "protocol", {"lung_box": box})
    for same in ([0.25, 0.8, 0.2, 0.75, 0.15, 0.85], None):
        origin.warn_of_frame({"lung_box": same})
    assert not caplog.records
    origin.warn_of_frame({"lung_box": [0.4, 0.8, 0.2, 0.8, 0.15, 0.85]})
    assert "fill 40 x 60 x 70 % of the volumes" in caplog.text and "trained with 60 x 60 x 70 %" in caplog.text
    assert "dataset/prepare.py margin=40" in caplog.text


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """Six patients with a volume each."""
    root = tmp_path_factory.mktemp("patients")
    for i in range(6):
        hu = torch.linspace(-900 + 50 * i, 300, 8 * 16 * 16).reshape(8, 16, 16).numpy()
        write_nifti(root / f"p{i}" / "ct.nii.gz", hu, (40.0, 20.0, 20.0), (0.0, 0.0, 0.0))
    return root


@pytest.mark.slow
def test_a_run_or_vqgan_of_another_fold_is_rejected(patients, train, vae, tmp_path):
    data = ["dataset=default", f"dataset.root_dir={patients}", "dataset.n_folds=3", "model.train_num_steps=1",
            "model.prior.rank=0"]  # fmt: skip
    first = train(tmp_path / "first", *data, f"model.vae_ckpt={vae}", "dataset.fold=0") / "last.ckpt"
    assert len(read(first).protocol["seen"]["train"]) == 2
    with pytest.raises(UserError, match="model.init_from=.*trained on 2 of the 4 patients.*allow_seen_patients=true"):
        train(tmp_path / "second", *data, f"model.init_from={first}", "dataset.fold=1")
    allowed = [f"model.init_from={first}", "dataset.fold=1", "model.allow_seen_patients=true"]
    again = train(tmp_path / "second", *data, *allowed) / "last.ckpt"
    assert len(read(again).protocol["seen"]["train"]) == 4  # of both runs

    rows, protocol = folder_source(patients, n_folds=3, fold=0).rows, {"dataset": "default"}
    network = VQGAN3D(n_hiddens=8, n_codes=16, embedding_dim=4)
    header = {"format": 1, "stage": "vqgan", "components": {"vqgan": component(network, "vqgan.")}}
    header["protocol"] = protocol | {"seen": seen_patients(rows, protocol)}
    weights = {f"vqgan.{name}": value for name, value in network.state_dict().items()}
    (tmp_path / "vqgan").mkdir()
    torch.save({"header": header, "state_dict": weights}, tmp_path / "vqgan" / "last.ckpt")
    newest = [*data, f"model.latent.search={tmp_path / 'vqgan'}", "dataset.fold=1"]
    with pytest.raises(UserError, match="model.vqgan_ckpt=.*trained on 2 of the 4.*dataset.fold"):
        train(tmp_path / "third", *newest)
