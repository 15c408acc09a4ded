"""Encoding before training: only missing latents, equal for command and training, one process and two."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from forked_command import run_command
from phantom_sources import phantom_source
from vae_files import tiny

from common.errors import UserError
from dataset.cases.case_dataset import CaseDataset
from dataset.datamodule import CTDataModule
from ddpm.latent import SliceVAELatents
from ddpm.latent.latent_dataset import read_latents
from ddpm.latent.vae_loading import SDXL_VAE
from train.generator import encode
from train.generator.encode import encode_missing, measure_reconstruction
from train.generator.latent_data import LatentData

CPU = {"accelerator": "cpu", "devices": 1}


def encoder() -> SliceVAELatents:
    return SliceVAELatents.from_vae(tiny(), "test", 4)


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> CTDataModule:
    source = phantom_source(train=3, val=1, test=1, volume_size=(16, 16, 16), xray_size=(32, 32))
    module = CTDataModule(source, cache_dir=tmp_path_factory.mktemp("cache"), prepare_workers=0)
    module.prepare_data()
    module.setup()
    return module


def test_raw_latents_of_each_case_are_written_once(cases, tmp_path):
    network = encoder()
    (train, val), count = encode_missing(network, [cases.train, cases.val], tmp_path, CPU)
    assert count == 4 and len(train) == 3 and len(val) == 1
    expected = torch.stack([network.encode_raw(cases.train[i]["ct"][None])[0] for i in range(3)])
    close = {"atol": 0.05 * expected.std().item(), "rtol": 0}  # bfloat16 if the CPU supports it
    torch.testing.assert_close(read_latents(train), expected, **close)
    stamp = train[2].stat().st_mtime_ns
    train[0].unlink()
    train[1].write_bytes(train[1].read_bytes()[:-3])  # as a full disk leaves it
    _, count = encode_missing(network, [cases.train, cases.val], tmp_path, CPU)
    assert count == 2
    torch.testing.assert_close(read_latents(train), expected, **close)
    assert train[2].stat().st_mtime_ns == stamp
    assert encode_missing(network, [cases.train, cases.train], tmp_path, CPU)[1] == 0


def test_another_encoder_or_window_has_files_of_its_own(cases, tmp_path):
    network = encoder()
    encode_missing(network, [cases.train], tmp_path, CPU)
    narrow = CaseDataset(cases.train.paths, cases.train.rows, "ctpa")
    assert encode_missing(network, [narrow], tmp_path, CPU)[1] == 3
    next(network.parameters()).data.mul_(1.01)
    assert encode_missing(network, [cases.train], tmp_path, CPU)[1] == 3


def test_an_interrupted_run_continues(cases, tmp_path, monkeypatch):
    original, written = encode.write_latents, []

    def stop(raw, file, scanned):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file)
        original(raw, file, scanned)

    monkeypatch.setattr(encode, "write_latents", stop)
    with pytest.raises(UserError, match="continues with the missing cases"):
        encode_missing(encoder(), [cases.train], tmp_path, CPU)
    monkeypatch.setattr(encode, "write_latents", original)
    assert encode_missing(encoder(), [cases.train], tmp_path, CPU)[1] == 1


def test_non_finite_latents_name_the_case(cases, tmp_path):
    network = encoder()
    network.network.encoder.layers[0].bias.data.fill_(float("inf"))
    with pytest.raises(UserError, match=f"{cases.train[0]['id']}.*not finite"):
        encode_missing(network, [cases.train], tmp_path, CPU)


def test_reconstruction_is_measured_in_hu_and_stored(cases, tmp_path):
    network = encoder()
    (files,), _ = encode_missing(network, [cases.val], tmp_path, CPU)
    found = measure_reconstruction(network, cases.val, files[0], torch.device("cpu"))
    volume, decoded = network.reconstruct(cases.val[0]["ct"][None])
    error = (cases.window.denormalise(volume) - cases.window.denormalise(decoded)).double()
    assert found["mae_hu"] == pytest.approx(float(error.abs().mean()), rel=0.05)
    psnr = 10 * torch.log10(2000**2 / error.square().mean())
    assert found["psnr_db"] == pytest.approx(float(psnr), abs=0.3) and found["data_range_hu"] == 2000
    network.network.decoder = None  # a second measurement would fail
    assert measure_reconstruction(network, cases.val, files[0], torch.device("cpu")) == found


def test_reconstruction_leaves_out_what_was_not_scanned(cases, tmp_path):
    network, item = encoder(), dict(cases.val[0])
    item["scanned"] = torch.zeros_like(item["ct"], dtype=torch.bool)
    item["scanned"][:, : item["ct"].shape[1] // 2] = True
    partly = type("Partly", (), {"window": cases.window, "__getitem__": lambda self, index: item})()
    found = measure_reconstruction(network, partly, tmp_path / "latents", torch.device("cpu"))
    volume, decoded = (cases.window.denormalise(part[0]) for part in network.reconstruct(item["ct"][None]))
    slices = [0, 2, 4, 6, 9, 11, 13, 15]  # of a slicewise encoder
    assert torch.equal(volume, cases.window.denormalise(item["ct"][:, slices]))
    error = (volume - decoded)[item["scanned"][:, slices]].abs().mean()
    assert found["mae_hu"] == pytest.approx(float(error), rel=0.05)
    assert float(error) != pytest.approx(float((volume - decoded).abs().mean()), rel=0.06)


def test_training_reads_standardised_latents_from_the_same_files(cases):
    network = encoder()
    home = Path(cases.manifest_path).parent
    (files, _), _ = encode_missing(network, [cases.train, cases.val], home, CPU)
    data = LatentData(cases, network, CPU)
    torch.testing.assert_close(network.unstandardise(data.train.latents), read_latents(files), atol=1e-3, rtol=0)
    std, mean = torch.std_mean(data.train.latents, dim=(0, 2, 3, 4))
    assert std.square().mean() == pytest.approx(1.0, abs=2e-3) and mean.abs().max() < 1e-3
    assert data.reconstruction["psnr_db"] > 0


def command(*overrides: str) -> str:
    done = run_command("train/encode_latents.py", *overrides, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.nightly
def test_the_command_encodes_alike_on_one_and_two_processes(tmp_path):
    tiny().save_pretrained(tmp_path / "vae")
    data = ["dataset.train=4", "dataset.val=1", "dataset.test=1", "dataset.volume_size=[16,16,16]",
            "dataset.xray_size=[32,32]", "dataset.prepare_workers=0", f"model.vae_ckpt={tmp_path}/vae"]  # fmt: skip
    latents = {}
    for name, devices in (("one", ["model.gpus=0"]), ("two", ["trainer.accelerator=cpu", "trainer.devices=2"])):
        out = command(*data, *devices, f"dataset.cache_dir={tmp_path}/{name}")
        assert "latents [4, 16, 8, 8] of 5 cases, 5 of them encoded now" in out and "dB PSNR" in out
        files = sorted((tmp_path / name).glob("*/latents-*/*.safetensors"))
        assert len(files) == 5
        latents[name] = read_latents(files)
    assert torch.equal(latents["one"], latents["two"])
    assert "0 of them encoded now" in command(*data, "model.gpus=0", f"dataset.cache_dir={tmp_path}/one")


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_batches_of_slices_through_the_sdxl_vae_stay_under_six_gigabytes(tmp_path):
    torch.manual_seed(0)
    AutoencoderKL(**SDXL_VAE).save_pretrained(tmp_path / "vae")
    out = command("dataset.train=1", "dataset.val=1", "dataset.test=1", "splits=[train]", "model.gpus=0",
                  "dataset.volume_size=[9,256,256]", f"model.vae_ckpt={tmp_path}/vae",
                  f"dataset.cache_dir={tmp_path}/cache", "dataset.prepare_workers=0")  # fmt: skip
    assert "latents [4, 9, 32, 32] of 1 cases" in out
    peak = float(out.split("peak memory ")[1].split()[0])
    print(f"9×256×256, batches of eight and one, through the SDXL VAE: {peak:.1f} GB at peak")
    assert peak < 6.0
