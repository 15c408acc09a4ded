"""Real processes on gloo: two and four train as one does with the same global batch, by DDP and FSDP."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from common.files import ROOT
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.read import read

SCRIPT = ROOT / "tests" / "train" / "recorded_run.py"
STEPS = 20
DATA = ["dataset.train=9", "dataset.val=6", "dataset.test=6", "dataset.volume_size=[16,16,16]", "model.seed=3",
        "dataset.xray_size=[32,32]", "dataset.prepare_workers=0", "trainer.accelerator=cpu", "model.precision=32",
        "trainer.log_every_n_steps=1", "model.warmup_steps=1", "model.validate_every=10"]  # fmt: skip
VQGAN = ["model.quantise=true",
         "model.n_codes=16", "model.n_hiddens=8", "model.n_res_blocks=1", f"model.max_steps={STEPS}",
         "model.codebook_decay=0.5", "model.losses.adversarial.start=5",
         "model.losses.adversarial.discriminator.channels=4", "model.losses.adversarial.discriminator.num_layers_d=1",
         "model.checkpoint_every=10", "model.picture_every=10"]  # fmt: skip
DDPM = ["model.dim=8", "model.dim_mults=[1]", f"model.train_num_steps={STEPS}", "model.xray_encoder.width=8",
        "model.xray_encoder.feature_channels=8", "model.xray_encoder.embedding_dim=16", "model.denoiser.blocks=1",
        "model.conditioning.depth_bins=2", "model.save_and_sample_every=10", "model.sampling_timesteps=1",
        "model.loss_type=l2_disc", "model.losses.adversarial.discriminator.channels=4",
        "model.losses.adversarial.discriminator.num_layers_d=1",
        "model.losses.adversarial.discriminator.kernel_size=2", "model.objective.prediction=v_prediction"]  # fmt: skip
CLASSIFIER = ["classifier=xray", "classifier.encoder.width=8", "classifier.encoder.blocks=1", "classifier.dropout=0",
              "model.balance=none", f"model.train_num_steps={STEPS}", "dataset.pe_share=0.5"]  # fmt: skip
pytestmark = [pytest.mark.processes, pytest.mark.timeout(3600)]  # starting processes is slow on a busy machine


def launch(folder: Path, processes: int, jobs: list) -> None:
    """Jobs one after the other in the same processes; the global batch is 4."""
    folder.mkdir(exist_ok=True)
    common = [*DATA, f"trainer.devices={processes}", f"model.batch_size={4 // processes}"]
    common += [f"dataset.cache_dir={folder.parent}/cache"]
    table = folder / "jobs.json"
    table.write_text(json.dumps([[name, stage, [*common, *overrides]] for name, stage, overrides in jobs]))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, SCRIPT, table], env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("device: CPU") == len(jobs)  # the first process prints for all


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Records of every process of a run: `runs(processes, job)`."""
    home = tmp_path_factory.mktemp("runs")
    stage1 = f"model.vqgan_ckpt={home}/1/vqgan/run/checkpoints/last.ckpt"
    gathered = [*DDPM, stage1, "model.gradient_accumulate_every=2", "model.precision=bf16-mixed"]
    ddpm, classifier = ["train_ddpm", [*DDPM, stage1]], ["train_classifier", CLASSIFIER]
    launch(home / "1", 1, [["vqgan", "train_vqgan", VQGAN], ["ddpm", *ddpm], ["classifier", *classifier],
                           ["gathered", "train_ddpm", gathered]])  # fmt: skip
    sharded = [*DDPM, stage1, "trainer=fsdp"]
    launch(home / "2", 2, [
        ["vqgan", "train_vqgan", [*VQGAN, "trainer=ddp"]], ["ddpm", ddpm[0], [*ddpm[1], "trainer=ddp"]],
        ["classifier", *classifier], ["gathered", "train_ddpm", [*gathered, "trainer=ddp"]],
        ["sharded", "train_ddpm", sharded], ["sharded_vqgan", "train_vqgan", [*VQGAN, "trainer=fsdp"]]])  # fmt: skip
    launch(home / "4", 4, [["vqgan", "train_vqgan", VQGAN], ["ddpm", *ddpm]])
    for run in ("2", "after"):  # each continues in the folder that it resumes
        shutil.copytree(home / "2/sharded/run", home / run / "half")
    half = "model.resume={}/half/checkpoints/previous.ckpt"
    launch(home / "2", 2, [["resumed", "train_ddpm", [*sharded, half.format(home / "2")]]])
    alone = [*DDPM, stage1, half.format(home / "after"), "model.resume_changed=true"]
    launch(home / "after", 1, [["resumed", "train_ddpm", alone]])

    def found(processes: int | str, job: str) -> list[dict]:
        files = sorted((home / str(processes) / job).glob("rank*.pt"))
        return [torch.load(file, weights_only=True) for file in files]

    found.home = home
    return found


PAIRS = [(2, "vqgan"), (4, "vqgan"), (2, "ddpm"), (4, "ddpm"), (2, "classifier"), (2, "gathered")]
SHARDED = [("sharded", "ddpm"), ("sharded_vqgan", "vqgan")]


def curves_agree(many: list[dict], one: dict, first: int = 0) -> None:
    for mine, true in zip(many[0]["losses"], one["losses"][first:], strict=True):
        assert mine.keys() == true.keys()
        assert all(mine[k] == pytest.approx(true[k], rel=2e-3, abs=2e-4) for k in true), (mine, true)


def gradients_agree(many: list[dict], one: dict, share: float) -> None:
    largest = max(float(g.abs().max()) for g in one["gradients"].values())
    for process in many:
        assert process["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            assert (process["gradients"][name] - gradient).abs().max() <= share * largest, name


@pytest.mark.parametrize(("processes", "job"), PAIRS)
def test_many_processes_train_as_one(runs, processes, job):
    (one,), many = runs(1, job), runs(processes, job)
    assert len(many) == processes and len(one["losses"]) == STEPS
    for step, ids in enumerate(one["seen"]):
        assert sum((process["seen"][step] for process in many), []) == ids
    gradients_agree(many, one, 2e-2 if job == "gathered" else 5e-6)  # bfloat16 sums in another order
    if job != "gathered":
        curves_agree(many, one)
    for name, weight in many[0]["weights"].items():
        assert all(torch.equal(process["weights"][name], weight) for process in many)
    scores = {k: v for k, v in one["metrics"].items() if k.startswith(("val/", "sample/"))}
    assert scores and scores == pytest.approx({k: many[0]["metrics"][k] for k in scores}, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize(("job", "plain"), SHARDED)
def test_sharded_weights_train_as_one_process_does(runs, job, plain):
    (one,), many = runs(1, plain), runs(2, job)
    gradients_agree(many, one, 5e-6)
    curves_agree(many, one)
    key = "val/loss" if plain == "ddpm" else "val/l1"
    assert many[0]["metrics"][key] == pytest.approx(one["metrics"][key], rel=1e-3)


def test_statistics_restarts_and_first_codes_agree_on_all_processes(runs):
    (one,) = runs(1, "vqgan")
    moves = [(after - before).norm(dim=1) for before, after in zip(one["codes"][:-1], one["codes"][1:], strict=True)]
    assert any(move.max() > 5 * move.median() for move in moves)  # a dead code was restarted
    for processes, job in ((2, "vqgan"), (4, "vqgan"), (2, "sharded_vqgan")):
        many = runs(processes, job)
        assert len(many) == processes
        for step, codes in enumerate(one["codes"]):
            assert torch.allclose(many[0]["codes"][step], codes, atol=1e-4), (processes, step)
            assert all(torch.equal(process["codes"][step], many[0]["codes"][step]) for process in many)


def test_volumes_are_sampled_once_and_alike(runs):
    (one,), (first, second) = runs(1, "ddpm"), runs(2, "ddpm")
    assert "sample/psnr" in first["metrics"] and "sample/psnr" not in second["metrics"]
    for processes, job in ((1, "ddpm"), (2, "ddpm"), (4, "ddpm"), (2, "sharded")):
        names = [p.name for p in sorted((runs.home / str(processes) / job / "run" / "pictures").iterdir())]
        assert names == ["sample_000010.png", "sample_000020.png"]
        found = runs(processes, job)[0]["metrics"]["sample/psnr"]
        assert found == pytest.approx(one["metrics"]["sample/psnr"], abs=0.05)


def test_a_sharded_checkpoint_is_a_plain_one(runs):
    paths = [runs.home / run / "run/checkpoints/last.ckpt" for run in ("1/ddpm", "2/sharded")]
    plain, sharded = (torch.load(path, weights_only=True) for path in paths)
    assert plain.keys() == sharded.keys() and plain["header"]["components"] == sharded["header"]["components"]
    for part in ("state_dict", "ema"):
        assert {k: v.shape for k, v in plain[part].items()} == {k: v.shape for k, v in sharded[part].items()}
    one, other = plain["optimizer_states"][0], sharded["optimizer_states"][0]
    assert one["param_groups"] == other["param_groups"] and one["state"].keys() == other["state"].keys()
    for name, average in sharded["ema"].items():
        assert torch.equal(average, runs(2, "sharded")[0]["average"][name])
    load_pipeline(runs.home / "2/sharded/run/checkpoints/last.ckpt")
    read(runs.home / "2/sharded_vqgan/run/checkpoints/last.ckpt").vqgan()


def test_a_sharded_run_resumes_bit_equal_and_on_one_process(runs):
    (whole, _), (resumed, _), (alone,) = runs(2, "sharded"), runs(2, "resumed"), runs("after", "resumed")
    assert resumed["seen"] == whole["seen"][10:]
    for part in ("weights", "average"):
        assert all(torch.equal(resumed[part][name], value) for name, value in whole[part].items())
    curves_agree([alone], whole, first=10)


@pytest.mark.parametrize("who", ["0:3:kill", "1:3:kill", "1:3:raise"])
def test_a_process_that_dies_ends_the_run_with_an_error(who, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "STAGE": "train_vqgan", "RECORD": str(tmp_path), "DIE": who}
    long = [*DATA, *VQGAN, "model.max_steps=100000", "model.batch_size=2", "trainer.devices=2"]
    folders = [f"dataset.cache_dir={tmp_path}/cache", f"model.default_root_dir={tmp_path}/runs"]
    command = [sys.executable, SCRIPT, *long, *folders]
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        code = run.wait(timeout=900)
        others_end = who[0] == "1" or wait_for_the_others(tmp_path)
    after = time.time() - (tmp_path / "died").stat().st_mtime
    text = (tmp_path / "log").read_text()
    assert code != 0 and others_end and after < 60, text[-2000:]
    assert "error: " in text and "model.resume=auto" in text
    if who == "1:3:kill":
        assert "process 1 of 2 was killed by signal 9" in text
    print(f"{who}: over {after:.0f} s after the end of the process")


def wait_for_the_others(folder: Path) -> bool:
    """Whether all processes of the run end within a minute."""
    for _ in range(60):
        lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
        if not any(str(folder) in line for line in lines):
            return True
        time.sleep(1)
    return False
