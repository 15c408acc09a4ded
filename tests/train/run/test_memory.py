"""Activations are counted exactly; the line before training names the remedy for a run that does not fit."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from common.environment import UNKNOWN
from common.errors import UserError
from common.files import ROOT
from train.run.memory import GB, SHARE, MemoryNeed, activation_bytes, peak_memory
from vq_gan_3d import VQGAN3D


def test_activations_of_a_known_network():
    """A linear layer keeps its input for the weight's gradient, a sigmoid its output: 4 bytes each number."""
    net = nn.Sequential(nn.Linear(100, 50, bias=False), nn.Sigmoid())
    assert activation_bytes(net, (8, 100), half=False) == pytest.approx(4 * (8 * 100 + 8 * 50), rel=0.05)
    assert activation_bytes(net, (8, 100), half=True) == activation_bytes(net, (8, 100), half=False) // 2
    assert next(net.parameters()).device.type == "cpu"  # counted on a copy
    conv = nn.Conv3d(1, 4, 3, padding=1)
    one, two = (activation_bytes(conv, (b, 1, 8, 8, 8), half=False) for b in (1, 2))
    assert two == 2 * one


def test_the_line_names_memory_and_remedy(monkeypatch):
    fits = MemoryNeed(2_000_000, 1_000_000, 10**8, 10**9, gpu=False, averaged=True).line(1)
    assert "2.0 M parameters (1.0 M trained)" in fits and "cached data 0.93 GB" in fits
    assert "will not fit" not in fits
    monkeypatch.setattr("train.run.memory.free_memory", lambda: GB)
    tight = MemoryNeed(2_000_000, 1_000_000, 5 * GB, 0, gpu=False, averaged=True).line(2)
    assert "will not fit" in tight and "model.batch_size" in tight


def test_the_largest_batch_is_the_last_that_fits(monkeypatch):
    need = MemoryNeed(2_000_000, 1_000_000, 10**8, 10**9, gpu=False, averaged=True)
    monkeypatch.setattr("train.run.memory._resident", lambda: GB)
    monkeypatch.setattr("train.run.memory.free_memory", lambda: 20 * GB)
    found = need.largest_batch()
    assert need.peak(found) <= SHARE * 20 * GB < need.peak(found + 1)
    monkeypatch.setattr("train.run.memory.free_memory", lambda: GB)
    assert need.largest_batch() == 1  # the line before training says that it does not fit
    monkeypatch.setattr("train.run.memory.free_memory", lambda: UNKNOWN)
    with pytest.raises(UserError, match="model.batch_size=auto: .* give a number"):
        need.largest_batch()


def test_gradient_checkpointing_counts_inputs_and_the_largest_part():
    """Three blocks keep their inputs; recomputing one adds its own activations."""
    net = VQGAN3D(n_codes=8, embedding_dim=4, n_hiddens=8, n_res_blocks=3, downsample=2, patch=2)
    shape, half = (1, 8, 8, 8, 8), {"half": False}
    alone = activation_bytes(net.encoder[1], shape, **half)
    whole = activation_bytes(net.encoder, shape, **half)
    net.enable_gradient_checkpointing()
    less = activation_bytes(net.encoder, shape, **half)
    inputs = 2 * 4 * 8 * 8**3  # of the second and third block; the first one's is counted within the largest part
    assert whole - less == pytest.approx(2 * alone - inputs, rel=0.1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_the_peak_excludes_the_parent_process():
    filled = bytearray(b"x") * (GB // 2)
    code = "from train.run.process_memory import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(filled) == GB // 2 and 0 < int(done.stdout) < GB // 4


def test_the_line_after_training_states_the_peak():
    assert 0.1 < float(peak_memory().split()[0]) < 100
