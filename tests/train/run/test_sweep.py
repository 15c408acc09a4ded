"""A sweep has one folder with a run for each combination, named by its values, and a table."""

import json
from pathlib import Path

import pandas as pd
import pytest
from forked_command import run_command
from omegaconf import OmegaConf

from common.cli import MAX_NAME, SWEPT, run_name
from common.errors import UserError
from common.files import result_folder, results_in, size_line
from evaluation.reporting.sweep_table import SweepTable as ResultTable
from train.run.sweep import refuse_several_devices

DATA = ["dataset.train=3", "dataset.val=1", "dataset.test=1", "dataset.volume_size=[16,16,16]",
        "dataset.xray_size=[32,32]", "dataset.prepare_workers=0", "model.gpus=0", "model.n_hiddens=8",
        "model.n_res_blocks=1", "model.losses.adversarial.weight=0", "model.max_steps=2", "model.validate_every=2",
        "model.picture_every=null", "model.results_folder_postfix=lora_finetune"]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "keys", "name"),
    [
        (["model.dim=16", "dataset=phantom", "model.seed=1"], ["model.dim", "model.seed"], "dim-16_seed-1"),
        (["+a.lr=1", "b.lr=2"], ["a.lr", "b.lr"], "a.lr-1_b.lr-2"),
        (["model.dim_mults=[1,2]"], ["model.dim_mults"], "dim_mults-1-2"),
        (["dataset.root_dir=/data/a b"], ["dataset.root_dir"], "root_dir-data-a-b"),
        (["model.dim=16"], [], ""),
    ],
)
def test_a_run_is_named_by_its_values(words, keys, name):
    assert run_name(words, keys) == name


def test_a_name_has_an_end():
    assert len(run_name([f"a={'x' * 500}"], ["a"])) == MAX_NAME


def test_results_of_a_run_in_a_sweep_are_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with results_in(Path("sweep") / "steps-4"):
        assert result_folder(None, "evaluate") == Path("sweep") / "steps-4"
        assert result_folder("mine", "evaluate") == Path("mine")
    assert not (tmp_path / "outputs").exists()  # no dated folder, and `latest` stays what it was
    assert result_folder(None, "evaluate").parent == Path("outputs") / "evaluate"


def test_the_table_of_evaluations_has_the_means_of_each_run(tmp_path, capsys):
    for name, estimate in (("steps-12", {"mean": 21.5, "low": 20.0, "high": 23.0}), ("steps-4", None)):
        (tmp_path / name).mkdir()
        metrics = {"methods": {"model": {"psnr": estimate}}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "0").mkdir()  # of Hydra
    ResultTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    table = pd.read_csv(tmp_path / "results.csv")
    assert list(table["run"]) == ["steps-12", "steps-4"] and table["psnr"][0] == 21.5 and table["psnr"].isna()[1]
    assert "21.5" in capsys.readouterr().out and not (tmp_path / "0").exists()


def test_a_sweep_on_several_devices_needs_jobs_of_its_own(monkeypatch):
    started = ("SUBMITIT_EXECUTOR", "TORCHELASTIC_RUN_ID", "SLURM_PROCID")
    for name in (*started, SWEPT):
        monkeypatch.delenv(name, raising=False)
    refuse_several_devices({"devices": 2}, 1)
    monkeypatch.setenv(SWEPT, "model.dim model.seed")
    refuse_several_devices({"devices": [3]}, 1)
    for devices, nodes in ((2, 1), ([1, 3], 1), (1, 2)):
        with pytest.raises(UserError, match="model.dim, model.seed.*set model.gpus=1.*hydra/launcher=slurm"):
            refuse_several_devices({"devices": devices}, nodes)
    for name in started:
        with monkeypatch.context() as patch:
            patch.setenv(name, "0")
            refuse_several_devices({"devices": 2}, 1)


@pytest.mark.slow
def test_the_command_refuses_it_before_the_first_run(tmp_path):
    several = ["trainer.accelerator=cpu", "trainer.devices=2", "model.results_folder=runs"]
    words = ["-m", "model.embedding_dim=4,6", *(word for word in DATA if word != "model.gpus=0"), *several]
    done = run_command("train/train_vqgan.py", *words, cwd=tmp_path)
    assert done.returncode == 1 and "error: a sweep over model.embedding_dim" in done.stderr
    assert not list(tmp_path.glob("runs/*/*/*"))  # Hydra has made the first folder


@pytest.mark.slow
def test_a_sweep_leaves_one_folder_with_its_table(tmp_path):
    words = ["-m", "model.embedding_dim=4,6", *DATA, "model.results_folder=runs", "dataset.cache_dir=cache"]
    done = run_command("train/train_vqgan.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "runs"]
    (sweep,) = (tmp_path / "runs").iterdir()
    names = [f"embedding_dim-{n}_lora_finetune" for n in (4, 6)]
    assert sorted(path.name for path in sweep.iterdir()) == [*names, "multirun.yaml", "results.csv"]
    for number, name in zip((4, 6), names, strict=True):
        record = json.loads((sweep / name / "run.json").read_text())
        command = record["starts"][0]["command"]
        assert f"model.embedding_dim={number}" in command and "4,6" not in command and record["results"]
    table = pd.read_csv(sweep / "results.csv")
    assert list(table["model.embedding_dim"]) == [4, 6] and list(table["run"]) == names
    assert set(record["results"]) < set(table) and str(Path("runs") / sweep.name / "results.csv") in done.stdout
    assert "LoRA is off: all weights are trained" in done.stdout


def test_the_size_of_results_is_said_with_that_of_prepared_cases(tmp_path):
    (tmp_path / "outputs" / "cache").mkdir(parents=True)
    assert size_line(tmp_path / "nothing") is None
    (tmp_path / "outputs" / "cache" / "case").write_bytes(bytes(20_000_000))
    (tmp_path / "outputs" / "volume").write_bytes(bytes(30_000_000))
    line = size_line(tmp_path / "outputs")
    assert "0.05 GB, 0.02 GB of it prepared" in line
    assert str(tmp_path / "outputs" / "cache") in line and "make" not in line  # an installed copy has no Makefile
