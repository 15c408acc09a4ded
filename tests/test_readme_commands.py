"""The README's commands for one's own CTs, word for word, with a small network added."""

import json
import re

import pytest
from forked_command import ROOT, run_command

from dataset.io.nifti import write_nifti
from dataset.phantom.render import render_phantom

SMALL = {
    "train/train_vqgan.py": ["model.n_hiddens=8", "model.n_res_blocks=1", "model.train_num_steps=4",
                             "model.crop=null"],
    "train/train_ddpm.py": ["model.dim=8", "model.dim_mults=[1,2]", "model.xray_encoder.width=8",
                            "model.train_num_steps=4", "model.warmup_steps=1"],
    "evaluation/evaluate.py": ["samples=2", "sampler.steps=2"],
}  # fmt: skip
SIZE = ["dataset.volume_size=[32,32,32]", "dataset.xray_size=[32,32]"]


@pytest.mark.slow
def test_the_commands_for_own_cts_end_with_a_report(tmp_path):
    for i in range(8):
        phantom = render_phantom(i, size=(40, 40, 40))
        write_nifti(tmp_path / "ct" / f"p{i}.nii.gz", phantom.hu, phantom.spacing, description="phantom")
    block = re.search(r"## Train on your own CTs\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    commands = [line.split()[1:] for line in block.group(1).splitlines()]
    assert [script for script, *_ in commands] == list(SMALL)
    for script, *words in commands:
        words = [word.replace("/data/ct", str(tmp_path / "ct")) for word in words]
        done = run_command(script, *words, *SMALL[script], *SIZE, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    report = tmp_path / "outputs" / "evaluate" / "latest"
    folder = report if report.is_dir() else tmp_path / "outputs" / "evaluate" / report.read_text().strip()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["protocol"]["dataset"] == "default" and (folder / "report.html").is_file()
    assert {"model", "ridge", "mean_volume"} <= set(metrics["methods"])
