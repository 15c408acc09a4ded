"""A full disk and a folder that cannot be written: one line, the last good checkpoint, and the run can go on."""

import pytest
from disks import fill, read_only, small_disk
from fault_runs import DATA, DDPM, contents, differing, stages
from test_killed_preparation import prepare, tree, whole, written  # noqa: F401 (fixtures)

from train.run.checkpoint_io import whole_checkpoint

COMMANDS = [
    pytest.param(name, marks=pytest.mark.slow if name == "train" else pytest.mark.faults)
    for name in ("train", "prepare", "cache", "encode")
]


@stages("vqgan")
def test_a_disk_that_fills_up_while_training(training, request):
    with small_disk(training.place / "runs", 64):
        command = training.start()
        training.until_saved(command, 2)
        filler = fill(training.place / "runs")
        line = command.refusal()
        assert "model.resume=auto" in line and ("No space left" in line or "cannot be written" in line)
        checkpoint, _ = whole_checkpoint(training.last)
        assert checkpoint == training.last
        filler.unlink()
        training.resume().fine()
        assert differing(training.weights(), request.getfixturevalue(f"whole_{training.stage}").weights()) == []


@stages()
def test_a_file_that_may_not_grow(training, request):
    """The same without a disk of its own: the system refuses what is written beyond a size."""
    size = request.getfixturevalue(f"whole_{training.stage}").last.stat().st_size
    line = training.start(small_files={"bytes": size // 2}).refusal()
    assert "cannot be written" in line
    assert not list(training.place.glob("runs/*/checkpoints/*.ckpt"))
    training.start().fine()


@pytest.mark.faults
def test_a_disk_that_is_full_for_prepared_cases(server, tmp_path):
    with small_disk(tmp_path / "cache", 1):
        filler = fill(tmp_path / "cache")
        words = [*DATA, *DDPM, f"dataset.cache_dir={tmp_path}/cache", "model.vqgan_ckpt=none"]
        command = server.start("train/train_vqgan.py", *words[: len(DATA)], words[-2], place=tmp_path)
        assert "dataset.cache_dir" in command.refusal()
        assert contents(tmp_path / "cache") == {"filler": filler.read_bytes()}


@pytest.mark.faults
def test_a_disk_that_is_full_for_latents(server, whole_vqgan, tmp_path):
    words = [*DATA, *DDPM, f"dataset.cache_dir={tmp_path}/cache", f"model.vqgan_ckpt={whole_vqgan.last}"]
    server.start("train/encode_latents.py", *words, place=tmp_path).fine()
    (home,) = tmp_path.glob("cache/*/latents-*")
    expected = contents(home)
    for path in home.iterdir():
        path.unlink()
    with small_disk(home, 1):
        filler = fill(home)
        line = server.start("train/encode_latents.py", *words, place=tmp_path).refusal()
        assert "latents cannot be written" in line and "dataset.cache_dir" in line
        filler.unlink()
        server.start("train/encode_latents.py", *words, place=tmp_path).fine()
        assert contents(home) == expected


@pytest.mark.faults
def test_a_disk_that_is_full_for_a_prepared_set(prepare, whole, tmp_path):  # noqa: F811
    (tmp_path / "set-linkage").mkdir(mode=0o700)
    key = next(path for path in (whole / "set-linkage").iterdir() if path.suffix != ".csv")
    (tmp_path / "set-linkage" / key.name).write_bytes(key.read_bytes())
    (tmp_path / "set-linkage" / key.name).chmod(0o600)
    with small_disk(tmp_path / "set", 1):
        filler = fill(tmp_path / "set")
        line = prepare(tmp_path).refusal()
        assert "No space left" in line and "free" in line.lower()
        filler.unlink()
        prepare(tmp_path).fine()
        assert written(tmp_path) == written(whole)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_written(command, server, whole_vqgan, prepare, tmp_path):  # noqa: F811
    with small_disk(tmp_path / "disk", 1) as disk:
        read_only(disk)
        cache, data = f"dataset.cache_dir={whole_vqgan.place}/cache", [*DATA, "model.gpus=0"]
        if command == "train":
            words = [*whole_vqgan.words, f"model.default_root_dir={disk}/runs"]
            line = server.start("train/train_vqgan.py", *words, place=tmp_path).refusal()
            assert "model.results_folder" in line or "model.default_root_dir" in line
        elif command == "prepare":
            line = prepare(disk.parent, output=f"{disk}/set").refusal()
            assert f"output={disk}/set" in line or "linkage" in line
        elif command == "cache":
            line = server.start(
                "train/train_vqgan.py", *data, f"dataset.cache_dir={disk}/cache", place=tmp_path
            ).refusal()
            assert f"dataset.cache_dir={disk}/cache" in line
        else:
            (home,) = whole_vqgan.place.glob("cache/*/cases")
            words = [*DATA, *DDPM, cache, f"model.vqgan_ckpt={whole_vqgan.last}", "dataset.train=7"]
            assert home.is_dir()
            place = disk / "cache"
            line = server.start(
                "train/encode_latents.py", *words, f"dataset.cache_dir={place}", place=tmp_path
            ).refusal()
            assert "dataset.cache_dir" in line
        assert "Read-only file system" in line
        assert list(disk.iterdir()) == []
